"""Pictures from files, as 8-bit RGB."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from evaluation.errors import EvaluationError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Modes that become 8-bit RGB without a choice of range; alpha is dropped, as the official checker does.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


class PictureError(EvaluationError):
    """A file that is not a picture this program can read."""


def open_rgb(path: Path | str) -> Image.Image:
    """Open and decode a picture, turned as its EXIF tag says, alpha dropped, as RGB.

    Raises:
        PictureError: the file is absent, damaged, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(image, str(path))
    except FileNotFoundError as error:
        raise PictureError(f"{path}: there is no such file") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path}: not a readable picture ({error})") from error


def to_rgb(image: Image.Image, name: str = "picture") -> Image.Image:
    """The same picture as 8-bit RGB.

    Raises:
        PictureError: its mode has more than 8 bits a channel.
    """
    if image.mode not in MODES:
        raise PictureError(
            f"{name}: mode {image.mode} is not one of {', '.join(MODES)}; save it as 8-bit RGB"
        )
    return ImageOps.exif_transpose(image).convert("RGB")


def load_rgb(path: Path | str) -> NDArray[np.uint8]:
    """The pixels of a file, (H, W, 3) uint8, channels red, green, blue."""
    return np.asarray(open_rgb(path))


@dataclass(frozen=True)
class Picture:
    """One picture to be scored: decoded when first looked at, named by the digest of its content."""

    name: str
    source: Path | Image.Image

    @cached_property
    def rgb(self) -> Image.Image:
        """The decoded picture."""
        return open_rgb(self.source) if isinstance(self.source, Path) else to_rgb(self.source, self.name)

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        return np.asarray(self.rgb)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file's bytes, or of size and pixels where there is no file."""
        try:
            return self._sha256()
        except OSError as error:
            raise PictureError(f"{self.source}: cannot be read ({error})") from error

    def _sha256(self) -> str:
        if isinstance(self.source, Path):
            with self.source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(repr(self.rgb.size).encode() + self.pixels.tobytes()).hexdigest()


def as_picture(name: str, source: Path | str | Image.Image) -> Picture:
    """A picture from a path or a PIL image."""
    return Picture(name, source if isinstance(source, Image.Image) else Path(source))


def decodable(pictures: Sequence[Picture], pool: Executor) -> tuple[list[Picture], list[str]]:
    """Those pictures that decode (they stay decoded), and what is wrong with the others."""
    errors = list(pool.map(_decode_error, pictures))
    good = [picture for picture, error in zip(pictures, errors, strict=True) if error is None]
    return good, [error for error in errors if error is not None]


def _decode_error(picture: Picture) -> str | None:
    try:
        picture.rgb.load()
    except PictureError as error:
        return str(error)
    return None


def chunks(pictures: Sequence[Picture], size: int) -> Iterator[Sequence[Picture]]:
    """Runs of `size` pictures, the last one shorter."""
    return (pictures[i : i + size] for i in range(0, len(pictures), size))
