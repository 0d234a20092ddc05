"""Pictures that are no numbers are never written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdx.backends.jittor.worker.jobs.pictures import check_finite, write_pngs
from jdx.errors import BackendError


def test_pixels_that_left_the_finite_numbers_are_not_written(tmp_path: Path) -> None:
    """Cast to levels they would be an ordinary, black picture."""
    pixels, files = np.zeros((2, 3, 8, 8), np.float32), [tmp_path / "good.png", tmp_path / "bad.png"]
    write_pngs(pixels, files)
    assert np.asarray(Image.open(files[1]))[0, 0].tolist() == [128, 128, 128]
    pixels[1, 0, 3, 4] = np.nan
    files = [tmp_path / "later.png", tmp_path / "worse.png"]
    with pytest.raises(BackendError, match=r"not written, the VAE left the finite numbers: .*worse\.png$"):
        write_pngs(pixels, files)
    assert not files[0].exists()
    assert not files[1].exists()


def test_latents_that_left_the_finite_numbers_are_told_by_their_files() -> None:
    latents = np.zeros((3, 4, 2, 2), np.float32)
    check_finite(latents, [Path("a.png"), Path("b.png"), Path("c.png")])
    latents[0, 0, 0, 0], latents[2, 3, 1, 1] = np.inf, np.nan
    with pytest.raises(BackendError, match=r"left the finite numbers: a\.png, c\.png; .*learning rate"):
        check_finite(latents, [Path("a.png"), Path("b.png"), Path("c.png")])
