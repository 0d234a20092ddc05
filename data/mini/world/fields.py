"""Small random and periodic fields over a picture, all antialiased by construction and scaled to its size."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]


@lru_cache(maxsize=4)
def grid(size: int) -> tuple[Field, Field]:
    """X and y of every pixel's centre, in pixels of a 128-pixel picture."""
    t = (np.arange(size, dtype=np.float32) + 0.5) * (128 / size)
    x, y = np.meshgrid(t, t)
    return x, y


def clouds(rng: np.random.Generator, size: int, cell: float) -> Field:
    """Smooth noise in about [-1, 1] with features of `cell` pixels."""
    n = max(2, round(128 / cell)) + 2
    coarse = rng.uniform(-1, 1, (n, n)).astype(np.float32)
    fine: Field = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return fine


def grain(rng: np.random.Generator, size: int, cell: float = 1.0) -> Field:
    """Gaussian noise with deviation about 1, blurred to grains of `cell` pixels."""
    n = max(8, round(128 / cell))
    noise = rng.standard_normal((n, n), dtype=np.float32)
    return noise if n == size else cv2.resize(noise, (size, size), interpolation=cv2.INTER_LINEAR)


def stripes(size: int, period: float, angle: float, bend: Field | None = None) -> Field:
    """A cosine wave in [-1, 1]; `angle` in degrees, `bend` shifts its phase in radians."""
    x, y = grid(size)
    a = math.radians(angle)
    phase = (x * math.cos(a) + y * math.sin(a)) * (2 * math.pi / period)
    wave: Field = np.cos(phase if bend is None else phase + bend)
    return wave


def cut(wave: Field, share: Field | float, softness: float = 0.35) -> Field:
    """1 where the wave is among its highest `share`, 0 elsewhere, with a soft edge."""
    level = np.cos(np.pi * np.clip(share, 0, 1))
    edge: Field = np.clip((wave - level) / softness + 0.5, 0, 1).astype(np.float32)
    return edge


def dots(size: int, period: float, angle: float) -> Field:
    """A lattice of bumps in [-1, 1] (halftone)."""
    return 0.5 * (stripes(size, period, angle) + stripes(size, period, angle + 90))


def cells(rng: np.random.Generator, size: int, period: float) -> tuple[NDArray[np.int64], Field]:
    """Voronoi cells about `period` wide: each pixel's cell number, and the pixels to its border."""
    n = math.ceil(128 / period)
    at = (np.stack(np.meshgrid(np.arange(-1, n + 1), np.arange(-1, n + 1)), -1).reshape(-1, 2) + 0.5) * period
    at = at + rng.uniform(-0.38, 0.38, at.shape) * period
    half = max(32, size // 2)
    x, y = grid(half)
    far = (x[..., None] - at[:, 0].astype(np.float32)) ** 2 + (
        y[..., None] - at[:, 1].astype(np.float32)
    ) ** 2
    two = np.partition(far, 1, axis=-1)[..., :2]
    edge = cv2.resize(
        np.sqrt(two[..., 1]) - np.sqrt(two[..., 0]), (size, size), interpolation=cv2.INTER_LINEAR
    )
    index = cv2.resize(far.argmin(-1).astype(np.float32), (size, size), interpolation=cv2.INTER_NEAREST)
    return index.astype(np.int64), edge / 2


def blur(image: Field, pixels: float) -> Field:
    """Gaussian blur; `pixels` is the deviation at 128 pixels."""
    sigma = pixels * image.shape[0] / 128
    out: Field = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return out
