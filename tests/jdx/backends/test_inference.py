"""Compiled passes of drawing: one compilation for all styles of a job, and the same pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jdx.backends.base import GenerateJob, ModelSpec, StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.backends.torch import compile as compilation
from jdx.backends.torch import inference, styleid
from jdx.backends.torch.adapters import save_adapter
from jdx.backends.torch.attention import self_attentions
from jdx.backends.torch.generate import generate
from jdx.backends.torch.inference import denoiser, even_rows
from jdx.backends.torch.models import Models, load
from jdx.progress import NullProgress
from tests.jdx.backends.adapters_for import random_adapter
from tests.jdx.backends.small_models import of_two_blocks
from tests.jdx.backends.styleid_jobs import pictures
from tests.jdx.backends.test_generate import assert_same, job, levels, style

__all__ = ["pictures"]  # a fixture


@pytest.fixture(scope="module")
def small(tiny_sd: Path) -> Models:
    return of_two_blocks(load(ModelSpec(str(tiny_sd)), "cpu", torch.float32))


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dynamo without a code generator: tracing, guards and graph breaks are the real ones."""
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    styleid.release()


def graphs() -> int:
    assert not torch._dynamo.utils.counters["graph_break"]
    return int(torch._dynamo.utils.counters["stats"].get("unique_graphs", 0))


def test_all_styles_of_a_job_share_one_compilation(small: Models, tmp_path: Path) -> None:
    """Two adapters and a smaller last batch, filled up; merged weights are seen, and nothing stays on the UNet."""
    folders = []
    for name in ("a", "b"):
        adapter = random_adapter(small, rank=3, alpha=2.0, text_rank=0)
        save_adapter(tmp_path / name, adapter.unet, adapter.text_encoder, {})
        folders.append(tmp_path / name)
    wanted = job(small, style("00", folders[0]), style("01", folders[1]), batch_size=2)

    def run(todo: GenerateJob, out: str) -> dict[str, Any]:
        generate(todo, small, tmp_path / out, NullProgress(), lambda *_: None)
        return levels(tmp_path / out)

    eager = run(wanted, "eager")
    assert graphs() == 0
    compiled = run(replace(wanted, compile="full"), "compiled")
    assert graphs() == 1
    assert_same(compiled, eager)
    run(replace(wanted, compile="full"), "again")
    assert graphs() == 1


@pytest.fixture
def restyling(small: Models, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> StyliseJob:
    """Three contents and two, so that the second style's are filled up."""
    monkeypatch.setattr(inference, "FILLED", 0.5)
    contents = {f"{i}.png": (picture, i % 2) for i, picture in enumerate(pictures[:3])}
    styles = (
        StyleStyliseJob("00", tuple(pictures[3:]), contents),
        StyleStyliseJob("01", tuple(pictures[3:]), {"a.png": (pictures[0], 0), "b.png": (pictures[1], 0)}),
    )
    spec = StyleIdSpec(tuple(self_attentions(small.unet)), 0.6, 1.5, 3)
    return StyliseJob(small.spec, spec, 64, styles, 3)


def restyled(wanted: StyliseJob, models: Models, out: Path) -> dict[str, Any]:
    styleid.release()
    styleid.stylise(wanted, models, out, NullProgress(), lambda *_: None)
    return levels(out)


def test_styleid_compiles_one_pass_to_invert_and_one_to_draw(
    restyling: StyliseJob, small: Models, tmp_path: Path
) -> None:
    """Whatever the contents' and references' number, and another gamma is no other code."""
    eager = restyled(restyling, small, tmp_path / "eager")
    spec = replace(restyling.spec, gamma=0.2)
    other = restyled(replace(restyling, spec=spec), small, tmp_path / "other")
    compiled = replace(restyling, compile="full")
    assert_same(restyled(compiled, small, tmp_path / "compiled"), eager)
    assert graphs() == 2
    assert_same(restyled(replace(compiled, spec=spec), small, tmp_path / "other compiled"), other)
    assert graphs() == 2


def broken(*_: object) -> Any:
    raise ValueError("no such instruction")


def test_styleid_goes_on_when_the_compiler_fails(
    restyling: StyliseJob, small: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = restyled(restyling, small, tmp_path / "eager")
    monkeypatch.setattr(compilation, "BACKEND", broken)
    assert_same(restyled(replace(restyling, compile="full"), small, tmp_path / "broken"), eager)


def test_a_compiler_that_fails_costs_one_line(
    small: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compilation.say.cache_clear()
    monkeypatch.setattr(compilation, "BACKEND", broken)
    x, t, text = torch.ones(2, 4, 8, 8), torch.tensor(3), small.embed(["a", "b"])
    denoise = denoiser(small, "full", 2)
    with torch.no_grad():
        made = denoise(x, t, text)
        assert denoise.failed
        assert torch.equal(made, small.unet(x, t, encoder_hidden_states=text).sample)
    assert "going on without it" in caplog.text


def test_rows_are_filled_up_unless_most_would_be_filling(
    small: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = small.unet.forward

    def watched(x: Tensor, *rest: Any, **named: Any) -> Any:
        seen.append(len(x))
        return forward(x, *rest, **named)

    monkeypatch.setattr(small.unet, "forward", watched)
    monkeypatch.setattr(compilation, "_whole", lambda backend: compilation.plain)
    denoise = denoiser(small, "full", 8)
    with torch.no_grad():
        for count in (8, 6, 5):
            text = small.embed(["a"]).expand(count, -1, -1)
            assert len(denoise(torch.ones(count, 4, 8, 8), torch.tensor(3), text)) == count
    assert seen == [8, 8, 5]


@pytest.mark.parametrize(
    ("needs", "most", "rows"),
    [([25] * 15, 32, 25), ([25, 28], 48, 28), ([1500], 25, 25), ([], 32, 1), ([40], 32, 20)],
)
def test_rows_that_cost_least(needs: list[int], most: int, rows: int) -> None:
    assert even_rows(needs, most) == rows
