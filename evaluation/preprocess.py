"""How a picture is made ready for each network, with PIL, as in the contest's time.

transformers 5 prepares pictures with torchvision by default, whose antialiased resize differs from PIL's in
the last bits and so moves every score; the official numbers came from PIL.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Chw = NDArray[np.float32]
# Part of the cache keys: raise it when the arithmetic here changes.
VERSION = 1

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocess(Protocol):
    """From an RGB picture to what a network takes; `key` names the arithmetic in cache keys."""

    @property
    def key(self) -> str: ...

    def __call__(self, image: Image.Image) -> Chw: ...


@dataclass(frozen=True)
class HfPreprocess:
    """What a transformers `preprocessor_config.json` asks for, in the order resize, crop, scale, normalise.

    `resize`: (height, width), or an int for the short edge; `crop`: (height, width) or None.
    """

    resize: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: int = int(Image.Resampling.BICUBIC)
    factor: float = 1 / 255
    normalise: bool = True

    @property
    def key(self) -> str:
        """All the numbers, and the version of this file."""
        return json.dumps({"hf": VERSION, **asdict(self)}, sort_keys=True)

    def __call__(self, image: Image.Image) -> Chw:
        """(3, H, W) float32 of an RGB picture."""
        if self.resize is not None:
            image = image.resize(self._size(image), Image.Resampling(self.resample))
        x = np.asarray(image if self.crop is None else centre_crop(image, self.crop))
        x = (x.astype(np.float64) * self.factor).astype(np.float32)
        return (
            _normalised(x, self.mean, self.std)
            if self.normalise
            else np.ascontiguousarray(x.transpose(2, 0, 1))
        )

    def _size(self, image: Image.Image) -> tuple[int, int]:
        """PIL's (width, height) after resizing; the long edge is cut, not rounded, as transformers does."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        assert self.resize is not None
        width, height = image.size
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    @classmethod
    def from_file(cls, path: Path) -> "HfPreprocess":
        """Read a `preprocessor_config.json`.

        Raises:
            FileNotFoundError: it is absent.
            ValueError: no size that is understood.
        """
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        crop = data.get("crop_size") if data.get("do_center_crop", True) else None
        return cls(
            resize=_edges(data.get("size", 224), path) if data.get("do_resize", True) else None,
            crop=None if crop is None else _height_width(crop, path),
            mean=tuple(data.get("image_mean", CLIP_MEAN)),
            std=tuple(data.get("image_std", CLIP_STD)),
            resample=int(data.get("resample", Image.Resampling.BICUBIC)),
            factor=float(data.get("rescale_factor", 1 / 255)) if data.get("do_rescale", True) else 1.0,
            normalise=bool(data.get("do_normalize", True)),
        )


def _normalised(x: NDArray[Any], mean: tuple[float, ...], std: tuple[float, ...]) -> Chw:
    """(x − mean)/std per channel, (H, W, 3) → (3, H, W), all in float32.

    Channel by channel: the same arithmetic on interleaved values takes thirty times as long.
    """
    normalised = np.empty((3, *x.shape[:2]), np.float32)
    numbers = zip(np.asarray(mean, np.float32), np.asarray(std, np.float32), strict=True)
    for out, channel, (mu, sigma) in zip(normalised, cv2.split(x), numbers, strict=True):
        np.subtract(channel, mu, out=out, dtype=np.float32)
        np.divide(out, sigma, out=out)
    return normalised


def _edges(size: Any, path: Path) -> tuple[int, int] | int:
    if isinstance(size, int):
        return size
    if isinstance(size, dict) and "shortest_edge" in size:
        return int(size["shortest_edge"])
    return _height_width(size, path)


def _height_width(size: Any, path: Path) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    wanted = 'a number, {"shortest_edge"} or {"height", "width"}'
    raise ValueError(f"{path}: size {size!r} is not {wanted}")


def centre_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut (height, width) from the middle; what is smaller is padded with black, as transformers does."""
    height, width = size
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class SquarePreprocess:
    """Resize to `size`² with PIL's bilinear filter (None: as it is), then (value/255 − mean)/std."""

    size: int | None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def key(self) -> str:
        """All the numbers, and the version of this file."""
        return json.dumps({"square": VERSION, **asdict(self)}, sort_keys=True)

    def __call__(self, image: Image.Image) -> Chw:
        """(3, H, W) float32 of an RGB picture."""
        if self.size is not None:
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return _normalised(np.asarray(image, np.float32) / np.float32(255), self.mean, self.std)


@dataclass(frozen=True)
class RawPreprocess:
    """Pixel values 0…255, not resized: Inception resizes itself; CLIP-IQA's checker forgot to divide."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def key(self) -> str:
        """All the numbers, and the version of this file."""
        return json.dumps({"raw": VERSION, **asdict(self)}, sort_keys=True)

    def __call__(self, image: Image.Image) -> Chw:
        """(3, H, W) float32 of an RGB picture."""
        return _normalised(np.asarray(image), self.mean, self.std)
