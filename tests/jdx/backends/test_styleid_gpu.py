"""StyleID on a GPU: the pictures of the CPU, also with features in pinned host memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jdx.backends.base import ModelSpec, StyleStyliseJob, StyliseJob
from jdx.backends.torch import styleid
from jdx.backends.torch.models import load
from jdx.backends.torch.styleid_features import CONTENT, STYLE
from jdx.backends.torch.styleid_layers import resolve_layers
from jdx.backends.torch.styleid_memory import FeatureMemory, Place, places, size
from jdx.progress import NullProgress
from tests.jdx.backends.recordings import count_recordings
from tests.jdx.backends.styleid_jobs import LAYERS, SPEC, engine, pictures, redrawn

__all__ = ["pictures"]  # a fixture
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_equals_the_cpu_wherever_the_features_are(
    tiny_sd: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, device = ModelSpec(str(tiny_sd)), torch.device("cuda", 0)
    want = redrawn(engine(load(spec, "cpu", torch.float64)), pictures)
    models = load(spec, device, torch.float64)
    # diffusers embeds time steps in float32, where a GPU's sine differs from a CPU's in the last digit.
    embed = models.unet.time_proj.forward
    monkeypatch.setattr(models.unet.time_proj, "forward", lambda times: embed(times.cpu()).to(device))
    near, far = places(device)
    assert (near.device, far.device, far.pinned) == (device, torch.device("cpu"), True)
    free = FeatureMemory((near, far))
    torch.testing.assert_close(
        redrawn(engine(models, memory=free), pictures).cpu(), want, rtol=1e-8, atol=1e-8
    )
    content, style = (size(engine(models).shapes(parts), torch.float64) for parts in (CONTENT, STYLE))
    assert (free.used(near), free.used(far)) == (3 * content + 2 * style, 0)
    tight = Place(device, lambda used: style + content)
    split = FeatureMemory((tight, far))
    made = redrawn(engine(models, memory=split, batch=2), pictures)
    assert (split.used(tight), split.used(far)) == (style + content, style + 2 * content)
    torch.testing.assert_close(made.cpu(), want, rtol=1e-8, atol=1e-8)
    assert all(x.is_pinned() for x in split.get(engine(models).key(pictures[4], STYLE)).features.values())  # type: ignore[union-attr]


@pytest.mark.parametrize("references", [2, 1])
@pytest.mark.parametrize("far", [False, True], ids=["on the device", "in host memory"])
def test_recorded_passes_are_the_same(
    far: bool, references: int, tiny_sd: Path, pictures: list[Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Two styles by the same graphs, features kept anywhere."""
    recorded = count_recordings(monkeypatch)
    models, made = load(ModelSpec(str(tiny_sd)), torch.device("cuda", 0), torch.float64), []
    if far:
        where = places(models.device)[1:]
        monkeypatch.setattr(styleid, "places", lambda device: where)
    styles = tuple(
        StyleStyliseJob(
            name,
            tuple(pictures[3:][:references]),
            {f"{i}.png": (pictures[(i + k) % 5], i % references) for i in range(3)},
        )
        for k, name in enumerate(("00", "01"))
    )
    spec = replace(SPEC, layers=resolve_layers(models.unet, LAYERS), steps=6)
    for graphs in (False, True):
        styleid._memories.clear()
        job, out = StyliseJob(models.spec, spec, 64, styles, 3, graphs=graphs), tmp_path / str(graphs)
        styleid.stylise(job, models, out, NullProgress(), lambda *_: None)
        made.append(
            np.stack([np.asarray(Image.open(file), dtype=int) for file in sorted(out.glob("*/*.png"))])
        )
    assert len(made[0]) == 6
    assert np.abs(made[0] - made[1]).max() <= 1
    assert len(recorded) >= 2  # one to invert and one to draw
    assert "could not be recorded" not in caplog.text


def test_bfloat16_is_no_worse_than_its_own_rounding(tiny_sd: Path, pictures: list[Path]) -> None:
    spec = ModelSpec(str(tiny_sd))
    want = redrawn(engine(load(spec, "cpu", torch.float64)), pictures)

    def error(device: str) -> float:
        memory = FeatureMemory(places(torch.device(device)))
        made = redrawn(engine(load(spec, device, torch.bfloat16), memory=memory), pictures).cpu()
        return float((made - want).norm() / want.norm())

    assert error("cuda:0") < 1.5 * error("cpu")
