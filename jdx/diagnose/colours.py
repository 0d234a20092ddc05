"""Colour drift: how a picture's colours differ from its references', and which way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from jdx.diagnose.findings import Finding
from jdx.diagnose.spread import FALSE_ALARMS, Spread

HIST_FLOOR = 0.04
"""Smallest spread that is believed of the histogram score."""
LAB_FLOOR = 2.3
"""The same of mean CIELAB values: the just noticeable difference (Mahy et al. 1994)."""
NAMES = ("L*", "a*", "b*")
AXES = (("darker", "lighter"), ("greener", "redder"), ("bluer", "yellower"))
"""What a lower and a higher mean of L*, a* and b* looks like."""
HUES = (
    (15, "magenta"),
    (55, "red"),
    (80, "orange"),
    (112, "yellow"),
    (175, "green"),
    (235, "cyan"),
    (310, "blue"),
    (330, "violet"),
)
"""Names of hues by where they end, in degrees of the angle of (a*, b*): sRGB's red is at 40, its blue at 306."""

Lab = tuple[float, float, float]


def mean_lab(picture: Image.Image) -> Lab:
    """Mean CIELAB colour (D65, sRGB in): L* 0 to 100, a* and b* about ±100."""
    levels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    lightness, a, b = cv2.cvtColor(levels, cv2.COLOR_RGB2LAB).reshape(-1, 3).mean(axis=0)
    return float(lightness), float(a), float(b)


@dataclass(frozen=True)
class Palette:
    """The references' colours: spread of their histogram scores (each against the others) and of mean L*, a*, b*."""

    lab: tuple[Spread, Spread, Spread]
    hist: Spread | None

    @classmethod
    def of(cls, means: Sequence[Lab], hist: Sequence[float] | None) -> Palette:
        """From the references' mean colours and leave-one-out histogram scores; two references or more."""
        first, second, third = (Spread.of(axis, LAB_FLOOR) for axis in zip(*means, strict=True))
        return cls((first, second, third), Spread.of(hist, HIST_FLOOR) if hist else None)

    def words(self) -> str:
        """The thresholds."""
        ranges = ", ".join(
            f"{name} {spread.mean:.0f} ± {self._reach(spread):.0f}"
            for name, spread in zip(NAMES, self.lab, strict=True)
        )
        hist = "" if self.hist is None else f"histogram score at least {self.hist.low:.2f}, "
        return f"colours: {hist}mean {ranges}"

    def drift(self, prompt: str, lab: Lab, hist: float | None) -> Finding | None:
        """The finding where the histogram score is too low or a mean is out of its range."""
        off = [value - spread.mean for value, spread in zip(lab, self.lab, strict=True)]
        out = [abs(d) > self._reach(spread) for d, spread in zip(off, self.lab, strict=True)]
        low = hist is not None and self.hist is not None and hist < self.hist.low
        if not low and not any(out):
            return None
        parts = []
        if low and self.hist is not None:
            parts.append(f"histogram {hist:.2f} (references {self.hist.mean:.2f}, limit {self.hist.low:.2f})")
        parts.append(_direction(off, [s.std for s in self.lab]))
        numbers: dict[str, float | str] = {
            f"d_{name}": round(d, 2) for name, d in zip("Lab", off, strict=True)
        }
        if hist is not None and self.hist is not None:
            numbers |= {"hist": round(hist, 4), "hist_limit": round(self.hist.low, 4)}
        return Finding("colour drift", "; ".join(parts), numbers, prompt)

    @staticmethod
    def _reach(spread: Spread) -> float:
        """Three means, each out of its range on two sides, are six chances of a false alarm."""
        return spread.reach(FALSE_ALARMS / 6)


def _direction(off: Sequence[float], scales: Sequence[float]) -> str:
    """The differences in words, the most telling first; small ones are left out."""
    order = sorted(range(3), key=lambda i: -abs(off[i]) / scales[i])
    told = [
        f"{AXES[i][off[i] > 0]} by {abs(off[i]):.0f} {NAMES[i]}"
        for i in order
        if abs(off[i]) > max(LAB_FLOOR, scales[i])
    ]
    if not told:
        return "the mean colour is right: other colours, or in other shares"
    turn = _hue_words(off)
    return ", ".join(told) + (f" (towards {turn})" if turn else "")


def _hue_words(off: Sequence[float]) -> str:
    """The name of the hue that colours moved to, from the angle of (Δa*, Δb*); none where they hardly moved."""
    if math.hypot(off[1], off[2]) < 2 * LAB_FLOOR:
        return ""
    degrees = math.degrees(math.atan2(off[2], off[1])) % 360
    return next((name for end, name in HUES if degrees < end), HUES[0][1])
