"""Parts to raster: colours of a style, pose, wobble, and three antialiased layers at the picture's size."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from data.mini.world.fields import Field
from data.mini.world.pen import RGB, Part, Points
from data.mini.world.style import Style, lab, luminance

_SHIFT = 4  # OpenCV draws with 4 fractional bits
_OVER = 2  # supersampling on top of OpenCV's own antialiasing


@dataclass(frozen=True)
class Layers:
    """In [0, 1]: premultiplied `fill` and `line` (size, size, 4); `tone` (size, size), the darkness."""

    fill: Field
    line: Field
    tone: Field

    @property
    def body(self) -> Field:
        """Coverage of the object's areas."""
        return self.fill[..., 3]


@dataclass(frozen=True)
class Pose:
    """Where the unit square lands: centre and half-width in shares of the picture, turn in degrees."""

    x: float
    y: float
    scale: float
    turn: float
    mirror: bool

    @staticmethod
    def random(rng: np.random.Generator) -> Pose:
        """The world's distribution of places and sizes."""
        x, y = 0.5 + rng.uniform(-0.055, 0.055, 2)
        scale, turn = float(rng.uniform(0.33, 0.42)), float(rng.normal(0, 4))
        return Pose(float(x), float(y), scale, turn, bool(rng.random() < 0.5))

    def place(self, points: Points) -> Points:
        """Unit square to shares of the picture."""
        c, s = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
        matrix = np.array([[c, s], [-s, c]])
        flipped = points * (-1, 1) if self.mirror else points
        placed: Points = flipped @ matrix * self.scale + np.array([self.x, self.y])
        return placed


@lru_cache(maxsize=8192)
def mapped(colour: RGB, style: Style) -> RGB:
    """A natural colour as the style paints it."""
    if style.mapping == "ramp":
        at = luminance(colour) * (len(style.colours) - 1)
        k = min(int(at), len(style.colours) - 2)
        low, high = style.colours[k], style.colours[k + 1]
        r, g, b = (round(a + (z - a) * (at - k)) for a, z in zip(low, high, strict=True))
        return r, g, b
    if style.mapping == "snap":
        here = np.array(lab(colour))
        return min(style.colours, key=lambda c: float(np.sum((np.array(lab(c)) - here) ** 2)))
    return _shifted(colour, style)


def _shifted(colour: RGB, style: Style) -> RGB:
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    rgb = colorsys.hsv_to_rgb((h + style.hue / 360) % 1, min(1.0, s * style.saturation), v)
    to = 1.0 if style.lightness > 0 else 0.0
    r, g, b = (round(255 * (c + (to - c) * abs(style.lightness))) for c in rgb)
    return r, g, b


@lru_cache(maxsize=8192)
def line_colour(colour: RGB | None, style: Style) -> RGB:
    """The style's line colour, mixed with a part's own vivid colour by `line_own`."""
    if colour is None or not style.line_own:
        return style.line
    own = mapped(colour, style)
    r, g, b = (round(f + (o - f) * style.line_own) for f, o in zip(style.line, own, strict=True))
    return r, g, b


def _wobbled(points: Points, style: Style, rng: np.random.Generator) -> Points:
    """Displace by a sum of four sines of the place, so that neighbours move alike; amplitude in 128ths."""
    if not style.wobble:
        return points
    frequency = rng.normal(0, 26, (4, 2))
    phase = rng.uniform(0, 2 * math.pi, (2, 4))
    angles = points @ frequency.T
    moved = np.stack([np.sin(angles + phase[0]).sum(1), np.sin(angles + phase[1]).sum(1)], axis=1)
    return points + moved * (style.wobble / 128 / 2)


def rasterise(parts: list[Part], style: Style, rng: np.random.Generator, size: int) -> Layers:
    """Draw the parts back to front. Areas erase the lines that they cover."""
    pose = Pose.random(rng)
    placed = pose.place(np.concatenate([part.points for part in parts]))
    cuts = np.cumsum([len(part.points) for part in parts])[:-1]
    wide = size * _OVER
    fill, line = np.zeros((wide, wide, 4), np.uint8), np.zeros((wide, wide, 4), np.uint8)
    tone = np.zeros((wide, wide), np.uint8)
    for again in range(style.passes):
        shares = _wobbled(placed, style, rng)
        pixels = np.round((shares * wide - 0.5) * 2**_SHIFT).astype(np.int32)
        for part, outline in zip(parts, np.split(pixels, cuts), strict=True):
            _draw(part, outline, style, (fill, line, tone), again)
    small = [cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA) for layer in (fill, line, tone)]
    return Layers(*(layer.astype(np.float32) / 255 for layer in small))


def _draw(
    part: Part, outline: NDArray[np.int32], style: Style, layers: tuple[NDArray[np.uint8], ...], again: int
) -> None:
    fill, line, tone = layers
    wide = fill.shape[0]
    ink = (*line_colour(part.colour, style), 255)
    width = max(1, round(style.line_width * wide / 128)) if style.line_width else 0
    if part.colour is None:
        if part.closed:
            cv2.fillPoly(line, [outline], ink, cv2.LINE_AA, _SHIFT)
        else:
            thick = max(1, round((style.line_width or 1.0) * part.width * wide / 128))
            cv2.polylines(line, [outline], False, ink, thick, cv2.LINE_AA, _SHIFT)
        return
    if not again:
        cv2.fillPoly(fill, [outline], (*mapped(part.colour, style), 255), cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(line, [outline], (0, 0, 0, 0), cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(tone, [outline], 255 - round(255 * luminance(part.colour)), cv2.LINE_AA, _SHIFT)
    if width:
        cv2.polylines(line, [outline], True, ink, width, cv2.LINE_AA, _SHIFT)
