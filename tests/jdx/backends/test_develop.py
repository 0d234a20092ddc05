"""From latents to files: the batch before is written while the next is under way; what the VAE cannot show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jdx.backends.base import ModelSpec
from jdx.backends.torch.develop import Developer, Folder, Handover
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.pictures import PictureWriter, to_levels
from jdx.errors import BackendError


@pytest.fixture(scope="module")
def half(tiny_sd: Path) -> Models:
    return load(ModelSpec(str(tiny_sd)), "cpu", torch.bfloat16)


def latents(count: int) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_batch_is_written_when_the_next_is_launched(half: Models, tmp_path: Path) -> None:
    folder = Folder.of("00", tmp_path, ["a.png", "b.png", "c.png"])
    left: list[int] = []
    given: list[tuple[str, Path]] = []
    z = latents(3)
    hand_over = Handover([folder], lambda style, path: given.append((style, path)))
    with PictureWriter() as writer:
        developer = Developer(half, writer, 2, left.append)
        developer.develop(z[:2], [folder.picture("a.png"), folder.picture("b.png")])
        assert (left, folder.files) == ([], [])
        developer.develop(z[2:], [folder.picture("c.png")])
        assert (left, len(folder.files)) == ([2], 2)
        hand_over(wait=True)
        assert given == []
        developer.finish()
        hand_over(wait=True)
    assert (left, given) == ([2, 1], [("00", tmp_path)])
    for name, some in (("a.png", z[:1]), ("c.png", z[2:])):
        want = to_levels(half.decode(some))[0].numpy().astype(int)
        assert np.abs(np.asarray(Image.open(tmp_path / name)) - want).max() <= 16  # bfloat16, another batch


@pytest.mark.parametrize("bad", [float("nan"), -9.0])
def test_one_picture_that_shows_nothing_is_decoded_exactly(
    bad: float, half: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    fast = Models.decode_fast

    def spoilt(self: Models, z: Tensor) -> Tensor:
        pixels = fast(self, z)
        pixels[1] = bad
        return pixels

    monkeypatch.setattr(Models, "decode_fast", spoilt)
    folder, z = Folder.of("00", tmp_path, ["a.png", "b.png"]), latents(2)
    with PictureWriter() as writer:
        developer = Developer(half, writer, 8, lambda n: None)
        developer.develop(z, [folder.picture("a.png"), folder.picture("b.png")])
        developer.finish()
    want = to_levels(half.decode_exactly(z[1:]))[0].numpy()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), want)
    assert want.std() > 5
    assert caplog.text.count("decoding in float32") == 1


def test_what_even_float32_cannot_show_is_an_error(
    half: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Models, "decode_exactly", lambda self, z: torch.full((len(z), 3, 8, 8), torch.nan))
    folder = Folder.of("00", tmp_path, ["a.png"])
    monkeypatch.setattr(Models, "decode_fast", Models.decode_exactly)
    with PictureWriter() as writer:
        developer = Developer(half, writer, 8, lambda n: None)
        developer.develop(latents(1), [folder.picture("a.png")])
        with pytest.raises(BackendError, match=r"not written.*a\.png"):
            developer.finish()
    assert not list(tmp_path.iterdir())
