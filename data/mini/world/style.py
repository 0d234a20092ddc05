"""A drawing style as a point in a space of parameters, and the distance between two styles in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from data.mini.world.pen import RGB

MAPPINGS = ("natural", "ramp", "snap")
GROUNDS = (
    "flat",
    "fade",
    "vignette",
    "clouds",
    "stripes",
    "dots",
    "checks",
    "rays",
    "grid",
    "panes",
    "board",
)
FILLS = (
    "flat", "none", "hatch", "cross", "stripes", "dots", "stipple", "gradient", "watercolour", "tiles",
    "facets", "scribble", "stitch", "carved",
)  # fmt: skip
LINES = ("solid", "chalk", "brush", "dashed")
TEXTURES = ("none", "grain", "canvas", "paper", "tiles", "scan", "weave", "soft")
SHADOWS = ("none", "drop", "contact", "halo")


@dataclass(frozen=True)
class Style:
    """How a drawing looks; lengths are in pixels of a 128-pixel picture, shares in [0, 1].

    Colours: `mapping` natural (shifted by `hue` degrees, `saturation` times, `lightness` in [-1, 1]), ramp
    (luminance runs through `colours`, dark to light) or snap (nearest of `colours`). `line_own` mixes the
    line colour with each part's own. `wash` is the opacity of the flat colour below a pattern fill. `glow`
    adds light around lines.
    Raises ValueError naming every field that is out of range.
    """

    mapping: str = "natural"
    colours: tuple[RGB, ...] = ()
    hue: float = 0.0
    saturation: float = 1.0
    lightness: float = 0.0
    ground: str = "flat"
    ground_colour: RGB = (250, 250, 247)
    ground_second: RGB = (236, 238, 240)
    line: RGB = (44, 44, 52)
    line_own: float = 0.0
    line_width: float = 1.0
    line_kind: str = "solid"
    wobble: float = 0.0
    passes: int = 1
    fill: str = "flat"
    wash: float = 1.0
    period: float = 6.0
    angle: float = 45.0
    texture: str = "none"
    strength: float = 0.0
    shadow: str = "none"
    shadow_colour: RGB = (60, 60, 70)
    rim: float = 0.0
    rim_colour: RGB = (255, 255, 255)
    glow: float = 0.0
    seal: bool = False

    def __post_init__(self) -> None:
        faults = [*self._wrong_words(), *self._wrong_numbers()]
        if faults:
            raise ValueError("style: " + "; ".join(faults))

    def _wrong_words(self) -> list[str]:
        allowed = {
            "mapping": MAPPINGS, "ground": GROUNDS, "line_kind": LINES, "fill": FILLS, "texture": TEXTURES,
            "shadow": SHADOWS,
        }  # fmt: skip
        faults = [
            f"{name}={getattr(self, name)!r} is none of {', '.join(words)}"
            for name, words in allowed.items()
            if getattr(self, name) not in words
        ]
        if self.mapping != "natural" and len(self.colours) < 2:
            faults.append(f"mapping={self.mapping!r} needs at least two colours, got {len(self.colours)}")
        return faults

    def _wrong_numbers(self) -> list[str]:
        ranges = {
            "saturation": (0, 3), "lightness": (-1, 1), "line_own": (0, 1), "line_width": (0, 8),
            "wobble": (0, 6), "passes": (1, 4), "wash": (0, 1), "period": (2, 64), "strength": (0, 1),
            "rim": (0, 8), "glow": (0, 2),
        }  # fmt: skip
        return [
            f"{name}={getattr(self, name)!r} is outside [{low}, {high}]"
            for name, (low, high) in ranges.items()
            if not low <= getattr(self, name) <= high
        ]


@lru_cache(maxsize=4096)
def lab(colour: RGB) -> tuple[float, float, float]:
    """CIELAB of an sRGB colour: L in [0, 100], a and b roughly in [-100, 100]."""
    pixel = np.array([[colour]], dtype=np.float32) / 255
    lightness, a, b = cv2.cvtColor(pixel, cv2.COLOR_RGB2Lab)[0, 0].tolist()
    return lightness, a, b


def luminance(colour: RGB) -> float:
    """Perceived lightness in [0, 1] (CIELAB L / 100)."""
    return lab(colour)[0] / 100


def features(style: Style) -> NDArray[np.float64]:
    """The style as a vector: ground, line and fill colours in CIELAB / 50, and weighted one-hot words.

    Two styles whose grounds differ like black and white are 2 apart by that alone; a different fill kind
    counts 0.7, a different ground or texture 0.5, a different kind of line, shadow or colour mapping 0.4.
    """
    base = style.colours or ((214, 52, 48), (62, 122, 210))
    ink = np.array(lab(style.line)) / 50 * (1 if style.line_width else 0.3)
    tint = np.mean([lab(c) for c in base], axis=0) / 50 * (0 if style.fill == "none" else 1)
    words = [
        0.5 * _one_hot(style.fill, FILLS), 0.35 * _one_hot(style.ground, GROUNDS),
        0.35 * _one_hot(style.texture, TEXTURES), 0.3 * _one_hot(style.line_kind, LINES),
        0.3 * _one_hot(style.shadow, SHADOWS), 0.3 * _one_hot(style.mapping, MAPPINGS),
    ]  # fmt: skip
    numbers = [
        style.line_width / 3,
        style.line_own,
        style.glow,
        style.rim / 3,
        style.wash * 0.7,
        style.wobble / 3,
        0.7 * style.seal,
    ]
    return np.concatenate([np.array(lab(style.ground_colour)) / 50, ink, tint, *words, numbers])


def _one_hot(word: str, words: tuple[str, ...]) -> NDArray[np.float64]:
    return np.array([float(word == w) for w in words])


def distance(a: Style, b: Style) -> float:
    """Euclidean distance of the two styles' features (0: the same; unrelated ones are 2 to 4 apart)."""
    return float(np.linalg.norm(features(a) - features(b)))
