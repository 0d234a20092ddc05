"""Vector primitives: an object is a list of parts in the square [-1, 1]², y pointing down.

A drawing function receives a `Pen` and calls its primitives from back to front. Each primitive appends one
`Part`; nothing is rasterised here, so the same drawing serves every style and every size.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RGB = tuple[int, int, int]
Points = NDArray[np.float64]
PointList = Sequence[tuple[float, float]]

WHITE: RGB = (250, 250, 250)
BLACK: RGB = (44, 44, 50)
GREY: RGB = (150, 150, 158)
SILVER: RGB = (206, 209, 215)
RED: RGB = (214, 52, 48)
ORANGE: RGB = (242, 142, 36)
YELLOW: RGB = (250, 208, 62)
GREEN: RGB = (84, 166, 76)
DARK_GREEN: RGB = (42, 108, 62)
BLUE: RGB = (62, 122, 210)
SKY: RGB = (156, 208, 240)
NAVY: RGB = (44, 62, 122)
PURPLE: RGB = (132, 82, 172)
PINK: RGB = (245, 162, 182)
BROWN: RGB = (140, 90, 50)
TAN: RGB = (212, 168, 112)
CREAM: RGB = (250, 234, 200)
GOLD: RGB = (232, 184, 60)
GLASS: RGB = (182, 219, 241)

# Catmull-Rom basis at six parameters: a closed or open curve through its control points.
_T = np.arange(6) / 6
_BASIS = 0.5 * np.stack(
    [-(_T**3) + 2 * _T**2 - _T, 3 * _T**3 - 5 * _T**2 + 2, -3 * _T**3 + 4 * _T**2 + _T, _T**3 - _T**2], axis=1
)
_TURN = np.linspace(0, 2 * math.pi, 40, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


@dataclass(slots=True)
class Part:
    """One shape. `colour` None means ink: drawn in the style's line colour (eyes, seams, whiskers).

    `width` is the ink line's width relative to the style's outline; a closed ink part is filled.
    """

    points: Points
    colour: RGB | None
    closed: bool = True
    width: float = 1.0


def shade(colour: RGB, by: float) -> RGB:
    """Mix with white (`by` > 0) or black (`by` < 0); -1 <= by <= 1."""
    to = 255 if by > 0 else 0
    r, g, b = (round(c + (to - c) * abs(by)) for c in colour)
    return r, g, b


def _dense(points: Points, closed: bool, step: float = 0.16) -> Points:
    """Subdivide long edges, so that a wobble can bend straight lines."""
    ends = np.roll(points, -1, axis=0) if closed else points[1:]
    starts = points if closed else points[:-1]
    edges = ends - starts
    counts = np.maximum(1, np.ceil(np.hypot(edges[:, 0], edges[:, 1]) / step)).astype(int)
    index = np.repeat(np.arange(len(starts)), counts)
    at = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    dense = starts[index] + edges[index] * (at / counts[index])[:, None]
    return dense if closed else np.concatenate([dense, points[-1:]])


def _smooth(points: Points, closed: bool) -> Points:
    """Catmull-Rom spline through the points."""
    around = (
        np.concatenate([points[-1:], points, points[:2]])
        if closed
        else np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    )
    windows = np.lib.stride_tricks.sliding_window_view(around, 4, axis=0)
    curve: Points = np.einsum("tk,nck->ntc", _BASIS, windows).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def _ellipse(x: float, y: float, rx: float, ry: float, turn: float) -> Points:
    points = _CIRCLE * (rx, ry)
    if turn:
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        points = points @ np.array([[c, s], [-s, c]])
    return np.add(points, (x, y))


def _sector(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> Points:
    a = np.radians(np.linspace(start, stop, max(6, int(abs(stop - start) / 9) + 1)))
    return np.stack([x + rx * np.cos(a), y + ry * np.sin(a)], axis=1)


def _cap(at: Points, along: Points, side: Points) -> Points:
    """Half a circle around a band's end, from its left side to its right."""
    a = np.linspace(0, math.pi, 7)[1:-1, None]
    return at + np.cos(a) * side + np.sin(a) * along * float(np.hypot(*side))


class Pen:
    """Collects parts; its random numbers are the object's own variation (proportions, hues)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.parts: list[Part] = []
        self._hue = float(rng.uniform(-0.022, 0.022))
        self._value = float(rng.uniform(0.92, 1.06))

    def vary(self, low: float, high: float) -> float:
        """A number for this drawing's proportions."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def pick(self, *colours: RGB) -> RGB:
        """One of several natural colours."""
        return colours[int(self.rng.integers(len(colours)))]

    def paint(self) -> RGB:
        """Any hue, for things that people paint, dye or print."""
        hue, saturation, value = self.vary(0, 1), self.vary(0.45, 0.85), self.vary(0.62, 0.95)
        r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
        return round(r * 255), round(g * 255), round(b * 255)

    def _add(self, points: Points, colour: RGB | None, closed: bool = True, width: float = 1.0) -> None:
        self.parts.append(Part(points, None if colour is None else self._tinted(colour), closed, width))

    def _tinted(self, colour: RGB) -> RGB:
        """The picture's common small shift of hue and brightness."""
        h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
        r, g, b = colorsys.hsv_to_rgb((h + self._hue) % 1, s, min(1.0, v * self._value))
        return round(r * 255), round(g * 255), round(b * 255)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: RGB, turn: float = 0) -> None:
        """Filled ellipse around (x, y); `turn` in degrees clockwise."""
        self._add(_ellipse(x, y, rx, ry, turn), colour)

    def poly(self, points: PointList, colour: RGB) -> None:
        """Filled polygon with straight sides."""
        self._add(_dense(np.array(points, dtype=float), True), colour)

    def blob(self, points: PointList, colour: RGB) -> None:
        """Filled smooth closed curve through the points."""
        self._add(_smooth(np.array(points, dtype=float), True), colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: RGB, round_by: float = 0) -> None:
        """Filled rectangle with corners rounded by `round_by`."""
        if not round_by:
            self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)
            return
        r = min(round_by, (x1 - x0) / 2, (y1 - y0) / 2)
        corners = ((x1 - r, y0 + r, -90), (x1 - r, y1 - r, 0), (x0 + r, y1 - r, 90), (x0 + r, y0 + r, 180))
        outline = np.concatenate([_sector(x, y, r, r, a, a + 90) for x, y, a in corners])
        self._add(_dense(outline, True), colour)

    def pie(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        start: float,
        stop: float,
        colour: RGB,
        centre: bool = True,
    ) -> None:
        """Filled sector of an ellipse (a segment without `centre`); degrees clockwise from east."""
        rim = _sector(x, y, rx, ry, start, stop)
        self._add(_dense(np.concatenate([rim, [[x, y]]]) if centre else rim, True), colour)

    def limb(
        self, points: PointList, width: float, colour: RGB, taper: float = 1.0, smooth: bool = True
    ) -> None:
        """A band along a curve (tail, arm, handle, frame): full width `width`, `taper` of it at the end."""
        raw = np.array(points, dtype=float)
        spine = _smooth(raw, False) if smooth and len(raw) > 2 else _dense(raw, False)
        along = np.gradient(spine, axis=0)
        along /= np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
        half = width / 2 * np.linspace(1, taper, len(spine))[:, None]
        side = np.stack([-along[:, 1], along[:, 0]], axis=1) * half
        end = _cap(spine[-1], along[-1], side[-1])
        start = _cap(spine[0], -along[0], -side[0])
        self._add(np.concatenate([spine + side, end, (spine - side)[::-1], start]), colour)

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, colour: RGB) -> None:
        """A closed band around an ellipse; its hole shows what lies behind."""
        t = np.linspace(0, 2 * math.pi, 49)
        circle = np.stack([np.cos(t), np.sin(t)], axis=1)
        outer, inner = circle * (rx + width / 2, ry + width / 2), circle * (rx - width / 2, ry - width / 2)
        self._add(np.add(np.concatenate([outer, inner[::-1]]), (x, y)), colour)

    def ink(self, points: PointList, width: float = 1.0, smooth: bool = False) -> None:
        """A detail line in the style's line colour."""
        raw = np.array(points, dtype=float)
        self._add(_smooth(raw, False) if smooth else _dense(raw, False), None, False, width)

    def ink_arc(
        self, x: float, y: float, rx: float, ry: float, start: float, stop: float, width: float = 1.0
    ) -> None:
        """A detail line along an ellipse; degrees clockwise from east."""
        self._add(_sector(x, y, rx, ry, start, stop), None, False, width)

    def dot(self, x: float, y: float, r: float, ry: float | None = None) -> None:
        """A spot of ink: an eye, a nose, a button."""
        self._add(_ellipse(x, y, r, r if ry is None else ry, 0), None)


Drawing = Callable[[Pen], None]
"""Draws one object into a pen."""
