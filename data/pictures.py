"""Pictures as every other part expects them: upright, opaque, 8-bit RGB."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.faults import DataError, Fault

READ_FAILURES = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for pictures it cannot decode (`SyntaxError` comes from broken PNG chunks)."""


def load_picture(path: str | Path) -> Image.Image:
    """Picture at `path` as RGB, 8 bits, turned as its EXIF orientation says, first frame only.

    Transparency is composited on white: a drawing is shown on white paper, and the colours stored under
    transparent pixels are arbitrary (mostly black), so dropping alpha would teach a background nobody sees.
    16-bit greyscale is scaled to 8 bits (Pillow alone would clip it to white). Colour profiles are not
    applied, as the contest's scorer does not apply them.

    Raises `DataError` when the file is missing, empty, truncated or not a picture.
    """
    path = Path(path)
    try:
        with Image.open(path) as opened:
            opened.seek(0)
            opened.load()
            return to_rgb(_upright(opened))
    except READ_FAILURES as error:
        raise DataError([picture_fault(path, error)]) from error


def picture_fault(path: Path, error: BaseException) -> Fault:
    """The fault for a picture that Pillow refused with `error`."""
    if not path.exists():
        return Fault(path, "no such picture", "check the path")
    if path.is_file() and path.stat().st_size == 0:
        return Fault(path, "the file is empty (0 bytes)", "copy or download it again")
    if isinstance(error, UnidentifiedImageError):
        return Fault(path, "not a picture that can be read", "give a PNG, JPEG or WebP file")
    return Fault(path, f"cannot be decoded ({error})", "copy or download it again, or save it anew as PNG")


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow mode as 8-bit RGB: alpha on white, 16-bit scaled by 257; `ValueError` for float pictures."""
    refuse_float(picture)
    if picture.mode.startswith("I"):
        return _from_16_bit(picture)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, rgba).convert("RGB")
    return picture.convert("RGB")


def refuse_float(picture: Image.Image) -> None:
    """`ValueError` for the one mode that decodes and still cannot become 8-bit RGB."""
    if picture.mode == "F":
        raise ValueError("32-bit float pictures have no fixed range; save it with 8 bits per channel")


def _upright(picture: Image.Image) -> Image.Image:
    with warnings.catch_warnings():
        # Odd EXIF blocks only warn; the orientation they fail to give is then "as stored".
        warnings.simplefilter("ignore", UserWarning)
        return ImageOps.exif_transpose(picture)


def _from_16_bit(picture: Image.Image) -> Image.Image:
    levels = np.asarray(picture).astype(np.float64)
    grey = np.clip(np.round(levels / 257), 0, 255).astype(np.uint8)  # 65535 / 255 = 257
    return Image.fromarray(grey).convert("RGB")
