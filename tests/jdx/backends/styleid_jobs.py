"""StyleID's engine and its jobs on five small pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jdx.backends.base import ModelSpec, StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.backends.torch import styleid
from jdx.backends.torch.models import Models
from jdx.backends.torch.styleid import StyleId
from jdx.backends.torch.styleid_features import CONTENT, STYLE
from jdx.backends.torch.styleid_layers import resolve_layers
from jdx.backends.torch.styleid_memory import FeatureMemory, places

CPU = torch.device("cpu")
LAYERS = ("7", "8", "9", "10", "11")
SPEC = StyleIdSpec(layers=LAYERS, gamma=0.6, temperature=1.5, steps=4)
RESOLUTION = 64


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    styleid.release()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five smooth coloured pictures: 0 to 2 are contents, 3 and 4 references (one of them not square)."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    files = []
    for i in range(5):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((80, 64) if i == 4 else (64, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        files.append(folder / f"{i}.png")
    return files


def engine(
    models: Models, spec: StyleIdSpec = SPEC, *, memory: FeatureMemory | None = None, batch: int = 0
) -> StyleId:
    memory = memory if memory is not None else FeatureMemory(places(CPU))
    return StyleId(models, spec, resolve_layers(models.unet, spec.layers), RESOLUTION, memory, batch)


def redrawn(one: StyleId, pictures: Sequence[Path], which: Sequence[int] = (0, 1, 0)) -> Tensor:
    """Latents of contents 0 to 2 in the style of references 3 and 4."""
    contents, references = pictures[:3], pictures[3:]
    keys = [one.key(path, CONTENT) for path in contents] + [one.key(path, STYLE) for path in references]
    with one.memory.using(keys):
        styles = one.inverted([(path, STYLE) for path in references])
        made = one.inverted([(path, CONTENT) for path in contents])
        return one.redraw(made, [styles[i] for i in which])


def job(
    tiny_sd: Path, pictures: Sequence[Path], spec: StyleIdSpec = SPEC, *, batch: int = 0, styles: int = 2
) -> StyliseJob:
    contents = {"Ice cream.png": (pictures[0], 0), "b.png": (pictures[1], 1), "c.png": (pictures[2], 0)}
    style = StyleStyliseJob("00", tuple(pictures[3:]), contents)
    other = StyleStyliseJob("01", tuple(pictures[4:]), {"b.png": (pictures[1], 0)})
    return StyliseJob(ModelSpec(str(tiny_sd)), spec, RESOLUTION, (style, other)[:styles], batch)
