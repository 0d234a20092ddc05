"""StyleID's jobs: the files they leave, what is inverted again, memory that runs out, and what is refused."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jdx.backends.base import ModelSpec, StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.backends.torch import styleid
from jdx.backends.torch.models import Models
from jdx.backends.torch.styleid import StyleId
from jdx.backends.torch.styleid_pictures import Squares, square
from jdx.errors import BackendError, ConfigError
from jdx.progress import NullProgress
from tests.jdx.backends.styleid_jobs import RESOLUTION, SPEC, engine, forget, job, pictures, redrawn

__all__ = ["forget", "pictures"]


class Count(NullProgress):
    """Remembers how much was announced and how much was done."""

    total = done = 0

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Any]:
        self.total = total
        yield self

    def advance(self, n: int = 1, **fields: object) -> None:
        self.done += n


def test_job_writes_pictures_and_keeps_those_that_are_there(
    models: Models, tiny_sd: Path, pictures: list[Path], tmp_path: Path
) -> None:
    done: list[tuple[str, Path]] = []
    progress = Count()
    styleid.stylise(job(tiny_sd, pictures), models, tmp_path, progress, lambda *style: done.append(style))
    assert done == [("00", tmp_path / "00"), ("01", tmp_path / "01")]
    assert progress.done == progress.total == SPEC.steps * (2 * 3 + 2 + 2 * 1 + 1)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert files == ["00/Ice cream.png", "00/b.png", "00/c.png", "01/b.png"]
    latents = redrawn(engine(models), pictures)
    want = ((models.decode(latents) / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    for file, levels in zip(("Ice cream.png", "b.png", "c.png"), want, strict=True):
        with Image.open(tmp_path / "00" / file) as image:
            assert (image.size, image.mode, image.format) == ((64, 64), "RGB", "PNG")
            assert np.abs(np.asarray(image, float) - levels.numpy()).max() <= 1  # a tie of rounding at most

    kept = (tmp_path / "00" / "b.png").stat().st_mtime_ns
    (tmp_path / "00" / "c.png").unlink()
    styleid.release()
    again = Count()
    styleid.stylise(job(tiny_sd, pictures), models, tmp_path, again, lambda *_: None)
    assert again.done == again.total == SPEC.steps * (2 + 1)
    assert (tmp_path / "00" / "c.png").exists()
    assert (tmp_path / "00" / "b.png").stat().st_mtime_ns == kept


class Calls:
    """Batch sizes of the UNet's passes."""

    def __init__(self, models: Models, monkeypatch: pytest.MonkeyPatch, most: int = 99):
        self.sizes: list[int] = []
        forward = models.unet.forward

        def counting(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.sizes.append(len(sample))
            if len(sample) > most:
                raise torch.cuda.OutOfMemoryError("as if")
            return forward(sample, *args, **kwargs)

        monkeypatch.setattr(models.unet, "forward", counting)


def test_another_gamma_draws_without_inverting_again(
    models: Models, tiny_sd: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(models, monkeypatch)
    run = partial(styleid.stylise, models=models, progress=NullProgress(), on_style=lambda *_: None)
    run(job(tiny_sd, pictures, styles=1), out=tmp_path / "a")
    assert calls.sizes[-12:] == [2] * 4 + [3] * 4 + [3] * 4  # references, contents, drawing
    calls.sizes.clear()
    other = replace(SPEC, gamma=0.2, temperature=2.0)
    run(job(tiny_sd, pictures, other, styles=1), out=tmp_path / "b")
    assert calls.sizes == [3] * 4
    styleid.release()
    run(job(tiny_sd, pictures, other, styles=1), out=tmp_path / "fresh")
    for file in ("Ice cream.png", "b.png", "c.png"):
        assert (tmp_path / "b" / "00" / file).read_bytes() == (tmp_path / "fresh" / "00" / file).read_bytes()
        assert (tmp_path / "b" / "00" / file).read_bytes() != (tmp_path / "a" / "00" / file).read_bytes()
    calls.sizes.clear()
    run(job(tiny_sd, pictures, replace(SPEC, start_step=2), styles=1), out=tmp_path / "c")
    assert len(calls.sizes) == 12  # other time steps are kept: inverted anew


def test_out_of_memory_halves_the_batch(
    models: Models, tiny_sd: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = partial(styleid.stylise, models=models, progress=NullProgress(), on_style=lambda *_: None)
    run(job(tiny_sd, pictures, styles=1), out=tmp_path / "whole")
    styleid.release()
    with monkeypatch.context() as patch:
        calls = Calls(models, patch, most=1)
        run(job(tiny_sd, pictures, styles=1), out=tmp_path / "halved")
    assert calls.sizes.count(1) == 4 * (2 + 3 + 3)
    for file in ("Ice cream.png", "b.png", "c.png"):
        whole, halved = (
            np.asarray(Image.open(tmp_path / d / "00" / file), float) for d in ("whole", "halved")
        )
        assert np.abs(whole - halved).max() <= 1
    # What the first job left behind is dropped too, before the next try.
    assert (memory := styleid._memories[models]).used(memory.places[0]) > 0
    with monkeypatch.context() as patch:
        Calls(models, patch, most=0)
        with pytest.raises(BackendError, match="does not fit"):
            run(job(tiny_sd, pictures, replace(SPEC, steps=3), styles=1), out=tmp_path / "never")
    assert memory.used(memory.places[0]) == 0


def test_pictures_that_are_not_finite_are_an_error(
    models: Models, tiny_sd: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        StyleId, "redraw", lambda self, contents, references: torch.full((3, 4, 8, 8), torch.nan)
    )
    with pytest.raises(BackendError, match=r"left the finite numbers in torch.float64: .*Ice cream.png"):
        styleid.stylise(job(tiny_sd, pictures), models, tmp_path, NullProgress(), lambda *_: None)
    assert not list(tmp_path.rglob("*.png"))


def test_all_faults_of_a_job_in_one_report(models: Models, tiny_sd: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.png"
    contents = {"a.png": (missing, 2), "A.png": (missing, 0)}
    style = StyleStyliseJob("00", (missing,), contents)
    spec = StyleIdSpec(("5", "99"), gamma=1.5, temperature=0.0, steps=1000, start_step=1001)
    bad = StyliseJob(ModelSpec(str(tiny_sd)), spec, 100, (style, style), -1)
    with pytest.raises(ConfigError) as caught:
        styleid.stylise(bad, models, tmp_path / "out", NullProgress(), lambda *_: None)
    text = str(caught.value)
    for part in ("gamma = 1.5", "temperature = 0.0", "steps = 1000", "start_step = 1001", "resolution = 100"):
        assert part in text
    for part in (
        "batch_size = -1",
        "styles = 00",
        "layers = 99",
        "a.png = reference 2",
        "nowhere.png",
        "2 times",
    ):
        assert part in text
    assert not (tmp_path / "out").exists()


def test_the_next_style_is_read_while_this_one_is_drawn(
    tiny_sd: Path, models: Models, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Style 00 has contents 0 and 1, style 01 content 2; both take reference 3 or 4."""
    style = StyleStyliseJob("00", tuple(pictures[3:]), {"a.png": (pictures[0], 0), "b.png": (pictures[1], 0)})
    then = StyleStyliseJob("01", tuple(pictures[3:]), {"c.png": (pictures[2], 1)})
    read, done = Counter[Path](), threading.Event()
    moments = Models.moments

    def noted(picture: Path, resolution: int) -> torch.Tensor:
        found = square(picture, resolution)
        read[picture] += 1
        if {pictures[2], pictures[4]} <= read.keys():
            done.set()
        return found

    def once_read(models: Models, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert done.wait(60.0)
        return moments(models, pixels)

    monkeypatch.setattr("jdx.backends.torch.styleid_pictures.square", noted)
    monkeypatch.setattr(Models, "moments", once_read)
    work = StyliseJob(ModelSpec(str(tiny_sd)), SPEC, RESOLUTION, (style, then))
    for gamma in (0.6, 0.3):  # the second time everything is in memory
        spec = replace(SPEC, gamma=gamma)
        again = replace(work, spec=spec)
        styleid.stylise(again, models, tmp_path / str(gamma), NullProgress(), lambda *_: None)
    assert set(read.values()) == {1}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("square")]


def test_squares_are_the_same_read_ahead_or_not(pictures: list[Path]) -> None:
    some = [pictures[4], pictures[0], pictures[4]]
    with closing(Squares(RESOLUTION)) as squares:
        squares.begin(pictures)
        ahead = squares.take(some)
        assert torch.equal(ahead, squares.take(some))
    assert torch.equal(ahead, torch.stack([square(path, RESOLUTION) for path in some]))
    assert ahead.is_contiguous()
