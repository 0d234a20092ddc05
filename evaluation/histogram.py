"""The contest's colour histogram score, with the two overflows of the official checker."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.pictures import load_rgb

Variant = Literal["official", "corrected"]
VARIANTS: tuple[str, ...] = get_args(Variant)

_RGB_BINS = 4096
_HSV_BINS = 72
# Upper ends, inclusive, of the hue codes 0…7 (degrees); above 315 it is red, code 0, again.
_HUE_ENDS = (20, 40, 75, 155, 190, 270, 295, 315)
# Upper ends, inclusive, of the saturation and value codes 0 and 1 (of 255).
_SV_ENDS = (51, 178)

_SV_CODES = np.digitize(np.arange(256), _SV_ENDS, right=True).astype(np.uint8)

Histogram = NDArray[np.float64]
Pixels = NDArray[np.uint8]


def histogram_score(
    generated: Sequence[Path | str], references: Sequence[Path | str], variant: Variant = "official"
) -> float:
    """Mean over `generated` of their colour correlation with the mean histogram of `references`, in [−1, 1].

    Raises:
        ValueError: an empty list, or an unknown variant.
        PictureError: a file that is no picture.
    """
    if not generated or not references:
        raise ValueError(
            f"the histogram score needs pictures on both sides; {len(generated)} generated and "
            f"{len(references)} references were given"
        )
    target = mean_histograms([colour_histograms(load_rgb(path), variant) for path in references])
    scores = [colour_score(colour_histograms(load_rgb(path), variant), target) for path in generated]
    return float(np.mean(scores))


def colour_histograms(rgb: Pixels, variant: Variant = "official") -> tuple[Histogram, Histogram]:
    """Raw counts of the RGB (4,096 bins) and HSV (72 bins) histograms of an (H, W, 3) uint8 picture.

    `official` keeps two uint8 overflows of the checker: 256·blue is always 0, so that only red and green are
    counted, and doubled hues wrap at 256. `corrected` computes both without overflow.

    Raises:
        ValueError: an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"histogram variant {variant!r} is not one of {', '.join(VARIANTS)}")
    return _rgb_histogram(rgb, variant), _hsv_histogram(rgb, variant)


def mean_histograms(several: Sequence[tuple[Histogram, Histogram]]) -> tuple[Histogram, Histogram]:
    """Arithmetic mean of raw counts: a larger reference weighs more, as in the official checker."""
    return np.mean([rgb for rgb, _ in several], axis=0), np.mean([hsv for _, hsv in several], axis=0)


def colour_score(one: tuple[Histogram, Histogram], other: tuple[Histogram, Histogram]) -> float:
    """½·correlation of the RGB histograms + ½·correlation of the HSV histograms."""
    return 0.5 * _correlation(one[0], other[0]) + 0.5 * _correlation(one[1], other[1])


@cache
def _hue_codes(variant: Variant) -> Pixels:
    """9·(hue code) of each of OpenCV's 8-bit hues, which are half degrees."""
    degrees = np.arange(256) * 2
    if variant == "official":
        degrees %= 256
    codes = np.digitize(degrees, _HUE_ENDS, right=True) % len(_HUE_ENDS)
    return (9 * codes).astype(np.uint8)


def _rgb_histogram(rgb: Pixels, variant: Variant) -> Histogram:
    # Red's level, and green's left where it stands, are 16·G + R; blue's would be 256·B.
    index: NDArray[np.integer] = (rgb[..., 1] & 0xF0) | (rgb[..., 0] >> 4)
    if variant == "corrected":
        index = index + (rgb[..., 2] >> 4).astype(np.uint16) * 256
    return np.bincount(index.ravel(), minlength=_RGB_BINS).astype(np.float64)


def _hsv_histogram(rgb: Pixels, variant: Variant) -> Histogram:
    hsv = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2HSV)
    code = _hue_codes(variant)[hsv[..., 0]] + 3 * _SV_CODES[hsv[..., 1]] + _SV_CODES[hsv[..., 2]]
    return np.bincount(code.ravel(), minlength=_HSV_BINS).astype(np.float64)


def _correlation(a: Histogram, b: Histogram) -> float:
    """Pearson's correlation, OpenCV's HISTCMP_CORREL: 1 where one of the two has no variance."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > np.finfo(np.float64).eps else 1.0
