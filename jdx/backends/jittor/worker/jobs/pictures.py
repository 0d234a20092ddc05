"""Pictures between Pillow and the networks' scale, in NumPy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from jdx.errors import BackendError
from jdx.files import write_bytes

Floats = npt.NDArray[np.float32]


def to_pixels(picture: Image.Image) -> Floats:
    """An RGB picture as (3, H, W) in [-1, 1]: level 0 is -1, level 255 is 1."""
    levels = np.array(picture.convert("RGB"), dtype=np.float32)
    return np.ascontiguousarray((levels / np.float32(255)).transpose(2, 0, 1) * 2 - 1, np.float32)


def to_levels(pixels: Floats) -> npt.NDArray[np.uint8]:
    """Pixels (n, 3, H, W) in [-1, 1] as levels (n, H, W, 3); cut off beyond, rounded as by diffusers."""
    unit = (pixels / 2 + 0.5).clip(0, 1)
    levels: npt.NDArray[np.uint8] = np.rint(unit * 255).astype(np.uint8)
    return levels.transpose(0, 2, 3, 1)


def write_pngs(pixels: Floats, files: Sequence[Path]) -> None:
    """Write pixels (n, 3, H, W) in [-1, 1] to n files, each there whole or not at all.

    Raises: BackendError, and writes none, where pixels are no finite numbers.
    """
    if bad := _not_finite(pixels, files):
        raise BackendError(f"not written, the VAE left the finite numbers: {bad}")
    for levels, file in zip(to_levels(pixels), files, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(levels)).save(buffer, format="PNG")
        write_bytes(file, buffer.getvalue())


def check_finite(latents: Floats, files: Sequence[Path]) -> None:
    """Raises: BackendError, naming the files whose latents (n, C, h, w) left the finite numbers."""
    if bad := _not_finite(latents, files):
        remedy = "an adapter trained with a lower learning rate, or a lower sampler.lora_scale, may help"
        raise BackendError(f"latents left the finite numbers: {bad}; {remedy}")


def _not_finite(arrays: Floats, files: Sequence[Path]) -> str:
    """The files whose arrays (n, ...) hold anything else than finite numbers, in words; empty when there are none."""
    pairs = zip(files, arrays, strict=True)
    return ", ".join(str(file) for file, one in pairs if not np.isfinite(one).all())
