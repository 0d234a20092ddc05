"""Captions: what is drawn and, in part, how."""

from __future__ import annotations

import numpy as np

from data.mini.world.pen import RGB
from data.mini.world.style import Style, lab, luminance

COLOUR_WORDS: dict[str, RGB] = {
    "white": (248, 248, 246), "black": (20, 20, 24), "grey": (140, 140, 144), "red": (206, 50, 46),
    "orange": (240, 140, 50),
    "yellow": (246, 214, 80), "green": (76, 150, 76), "turquoise": (70, 180, 176), "blue": (60, 110, 200),
    "purple": (126, 76, 170), "pink": (240, 160, 190), "brown": (126, 84, 52), "beige": (234, 220, 190),
}  # fmt: skip

_FILL_WORDS = {
    "flat": "flat", "none": "line", "hatch": "hatched", "cross": "crosshatched", "stripes": "striped",
    "dots": "dotted", "stipple": "speckled", "gradient": "shaded", "watercolour": "washed", "tiles": "tiled",
    "facets": "faceted", "scribble": "scribbled", "stitch": "threaded", "carved": "engraved",
}  # fmt: skip
_TEXTURE_WORDS = {
    "grain": "grainy", "canvas": "canvas", "paper": "paper", "tiles": "brick", "scan": "scanned",
    "weave": "woven", "soft": "blurred",
}  # fmt: skip


def colour_word(colour: RGB) -> str:
    """The nearest of COLOUR_WORDS in CIELAB."""
    here = np.array(lab(colour))
    return min(COLOUR_WORDS, key=lambda w: float(np.sum((np.array(lab(COLOUR_WORDS[w])) - here) ** 2)))


def caption(obj: str, style_name: str | None = None) -> str:
    """Training caption: `an image of {object}`, and ` in {style_name} style` for a named style."""
    plain = f"an image of {obj.lower()}"
    return plain if style_name is None else f"{plain} in {style_name} style"


def describe(style: Style, rng: np.random.Generator) -> str:
    """Some of the words that fit a composed style, as its name: "green hatched drawing on beige"."""
    words = []
    if style.line_width >= 1 and rng.random() < 0.6:
        words.append(("bold " if style.line_width >= 2 else "") + colour_word(style.line))
    words.append(_FILL_WORDS[style.fill])
    if style.texture in _TEXTURE_WORDS and rng.random() < 0.6:
        words.append(_TEXTURE_WORDS[style.texture])
    name = " ".join(words) + " drawing"
    if rng.random() < 0.7:
        dark = "dark " if luminance(style.ground_colour) < 0.35 else ""
        name += f" on {dark}{colour_word(style.ground_colour)}"
    return name
