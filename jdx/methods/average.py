"""The average picture of a style, a start for drawing that carries its palette (pad-pad-eos, JDiffArtFlow)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from data.challenge import load_picture


def average_picture(paths: Iterable[Path], resolution: int) -> Image.Image:
    """Mean of the pictures, each resized to a square of `resolution` pixels (bicubic), truncated to 8 bits.

    Raises ValueError when there is no picture.
    """
    size = (resolution, resolution)
    pictures = [
        np.asarray(load_picture(path).resize(size, Image.Resampling.BICUBIC), np.float64) for path in paths
    ]
    if not pictures:
        raise ValueError("the average of no pictures is undefined: the style has no references")
    # The published programs cast the mean to uint8, which truncates; half a level of difference, kept for parity.
    return Image.fromarray(np.mean(pictures, axis=0).astype(np.uint8))
