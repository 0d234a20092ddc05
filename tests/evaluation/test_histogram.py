"""The histogram score against goldens of the official checker, and against its arithmetic done in OpenCV."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from evaluation import histogram_score
from evaluation.histogram import Variant, colour_histograms, colour_score, mean_histograms
from tests.evaluation.tiny import picture

Pixels = NDArray[np.uint8]


def _synthetic(blue: NDArray[np.int64], green: NDArray[np.int64], red: NDArray[np.int64]) -> Pixels:
    return (np.stack([red, green, blue], -1) % 256).astype(np.uint8)


_Y, _X = np.mgrid[0:64, 0:64]
_REFERENCES = (_synthetic(3 * _X + _Y, _X + 5 * _Y, _X * _Y), _synthetic(2 * _X, 2 * _Y, _X + _Y))
_GENERATED = (
    _synthetic(4 * _X, 4 * _Y, 2 * (_X + _Y)),
    _synthetic(255 - 4 * _X, np.full_like(_X, 128), 4 * _Y),
)


def _saved(folder: Path, name: str, pictures: tuple[Pixels, ...]) -> list[Path]:
    paths = [folder / f"{name}{i}.png" for i in range(len(pictures))]
    for path, pixels in zip(paths, pictures, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.mark.parametrize(
    ("generated", "variant", "golden"),
    [
        # Computed with the official checker's code; "corrected" with its two overflows removed.
        ((0, 1), "official", 0.4656408473698581),
        ((0,), "official", 0.682598580069774),
        ((1,), "official", 0.24868311466994225),
        ((0, 1), "corrected", 0.40336844865094457),
    ],
)
def test_goldens_of_synthetic_pictures(
    tmp_path: Path, generated: tuple[int, ...], variant: Variant, golden: float
) -> None:
    ours = _saved(tmp_path, "g", tuple(_GENERATED[i] for i in generated))
    score = histogram_score(ours, _saved(tmp_path, "r", _REFERENCES), variant)
    assert score == pytest.approx(golden, abs=1e-6)


def test_official_is_the_default(tmp_path: Path) -> None:
    score = histogram_score(_saved(tmp_path, "g", _GENERATED), _saved(tmp_path, "r", _REFERENCES))
    assert score == pytest.approx(0.4656408473698581, abs=1e-6)


def test_rgb_bins_equal_the_checker_arithmetic_in_uint8() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    level = (rgb // 16).astype(np.uint8)
    # 256·B does not fit uint8: ×16 twice leaves 0.
    blue = level[..., 2] * np.uint8(16) * np.uint8(16)
    index = blue + level[..., 1] * np.uint8(16) + level[..., 0]
    assert index.dtype == np.uint8
    assert np.array_equal(colour_histograms(rgb)[0], np.bincount(index.ravel(), minlength=4096))


def test_correlation_equals_opencv() -> None:
    one, other = colour_histograms(np.asarray(picture(1))), colour_histograms(np.asarray(picture(2)))
    theirs = [
        cv2.compareHist(a.astype(np.float32), b.astype(np.float32), cv2.HISTCMP_CORREL)
        for a, b in zip(one, other, strict=True)
    ]
    assert colour_score(one, other) == pytest.approx(np.mean(theirs), abs=1e-6)


def test_blue_is_not_seen_officially() -> None:
    blue, black = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    blue[..., 2] = 255
    assert np.array_equal(colour_histograms(blue)[0], colour_histograms(black)[0])
    assert not np.array_equal(
        colour_histograms(blue, "corrected")[0], colour_histograms(black, "corrected")[0]
    )


def test_larger_references_weigh_more() -> None:
    small, large = np.zeros((4, 4, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    rgb, _ = mean_histograms([colour_histograms(small), colour_histograms(large)])
    assert rgb[0] == 8
    assert rgb[255] == 128


def test_empty_lists_and_unknown_variants_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 generated and 1 references"):
        histogram_score([], _saved(tmp_path, "r", _REFERENCES[:1]))
    with pytest.raises(ValueError, match="'exact' is not one of official, corrected"):
        colour_histograms(_REFERENCES[0], "exact")  # type: ignore[arg-type]


# The A set's references scored against themselves by the official checker, at their 1024 pixels.
_SELF = {
    "00": 0.950114, "01": 0.938283, "02": 0.949684, "03": 0.919773, "04": 0.899359, "05": 0.810298,
    "06": 0.957569, "07": 0.963094, "08": 0.912127, "09": 0.922832, "10": 0.852389, "11": 0.960684,
    "12": 0.874729, "13": 0.914709, "14": 0.901595,
}  # fmt: skip


def test_references_of_the_challenge_against_themselves() -> None:
    root = Path(os.environ.get("JDX_CHALLENGE_A", Path(__file__).parents[3] / "shared" / "challenge_a"))
    if not root.is_dir():
        pytest.skip("the challenge's A set is not here; JDX_CHALLENGE_A names its folder")
    styles = {
        style: sorted((root / style / "images").glob("*.*")) for style in _SELF if (root / style).is_dir()
    }
    # Two styles are enough to tell an error of the code, at a tenth of the time.
    scores = {style: histogram_score(styles[style], styles[style]) for style in sorted(styles)[:2]}
    # Resizing to 512 alone moves the mean by .001; with lossy WebP single styles moved by up to .0152.
    assert scores == pytest.approx({style: _SELF[style] for style in scores}, abs=0.02)
