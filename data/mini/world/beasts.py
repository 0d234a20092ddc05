"""Beasts that show their whole body, or most of it."""

# Coordinates: packed rows read better than one point per line.
# fmt: off

from __future__ import annotations

import math

from data.mini.world.pen import BLACK, RGB, WHITE, Drawing, Pen, shade


def elephant(p: Pen) -> None:
    skin = p.pick((150, 156, 170), (134, 142, 160), (164, 160, 168))
    for s in (-1, 1):
        p.blob([(s * 0.3, -0.5), (s * 0.72, -0.72), (s * 0.98, -0.3), (s * 0.86, 0.24), (s * 0.5, 0.32),
            (s * 0.3, 0.1)], shade(skin, -0.12))
    p.oval(0, -0.22, 0.5, 0.54, skin)
    for s in (-1, 1):
        p.limb([(s * 0.22, 0.2), (s * 0.32, 0.44), (s * 0.5, 0.54)], 0.14, WHITE, 0.3)
    bend = p.vary(0.16, 0.3)
    p.limb([(0, -0.1), (0, 0.36), (bend * 0.4, 0.7), (bend + 0.14, 0.86)], 0.38, skin, 0.5)
    for y in (0.2, 0.36, 0.52):
        p.ink_arc(0, y, 0.16, 0.05, 20, 160, 0.7)
    for s in (-1, 1):
        p.dot(s * 0.28, -0.24, 0.065, 0.075)


def giraffe(p: Pen) -> None:
    coat, spot = (242, 200, 104), p.pick((168, 100, 44), (150, 86, 40))
    for x in (-0.5, -0.3, 0.08, 0.26):
        p.box(x - 0.06, 0.3, x + 0.06, 0.95, coat)
    p.limb([(-0.62, 0.1), (-0.76, 0.34), (-0.74, 0.5)], 0.06, spot)
    p.poly([(0.0, 0.1), (0.36, -0.72), (0.56, -0.66), (0.36, 0.24)], coat)
    p.oval(-0.13, 0.2, 0.52, 0.26, coat)
    p.limb([(0.42, -0.76), (0.4, -0.95)], 0.06, spot)
    p.blob([(0.32, -0.78), (0.52, -0.84), (0.88, -0.6), (0.84, -0.48), (0.6, -0.52), (0.4, -0.56)], coat)
    for x, y, r in (
        (-0.44, 0.16, 0.1),
        (-0.2, 0.1, 0.11),
        (-0.28, 0.32, 0.09),
        (0.02, 0.26, 0.1),
        (0.2, 0.1, 0.1),
        (0.26, -0.14, 0.09),
        (0.36, -0.36, 0.08),
    ):
        p.oval(x, y, r, r * 0.85, spot)
    p.dot(0.58, -0.7, 0.04)


def _hoofed(p: Pen, coat: RGB) -> None:
    """Body, neck and legs of a horse-like animal that faces right."""
    for x in (-0.56, -0.34, 0.16, 0.36):
        p.box(x - 0.07, 0.2, x + 0.07, 0.88, coat)
        p.box(x - 0.08, 0.8, x + 0.08, 0.9, BLACK)
    p.poly([(0.14, 0.1), (0.36, -0.6), (0.66, -0.56), (0.5, 0.26)], coat)
    p.oval(-0.1, 0.14, 0.56, 0.3, coat)
    p.blob([(0.34, -0.6), (0.52, -0.78), (0.7, -0.6), (0.96, -0.32), (0.88, -0.18), (0.58, -0.32),
        (0.42, -0.4)], coat)


def zebra(p: Pen) -> None:
    p.limb([(-0.62, 0.06), (-0.8, 0.24), (-0.78, 0.52)], 0.08, BLACK)
    p.limb([(0.44, -0.84), (0.26, -0.56), (0.12, -0.12)], 0.16, BLACK)
    _hoofed(p, WHITE)
    p.poly([(0.44, -0.7), (0.46, -0.92), (0.58, -0.72)], WHITE)
    for x in (-0.52, -0.34, -0.16, 0.02, 0.2):
        p.limb([(x, -0.1), (x + 0.05, 0.12), (x, 0.38)], 0.085, BLACK, 0.5)
    for k in range(3):
        p.limb([(0.27 + 0.06 * k, -0.1 - 0.17 * k), (0.54 + 0.02 * k, -0.02 - 0.17 * k)], 0.07, BLACK)
    p.oval(0.9, -0.25, 0.08, 0.09, BLACK)
    p.dot(0.62, -0.54, 0.045)


def sheep(p: Pen) -> None:
    face = p.pick(BLACK, (92, 80, 76))
    for x in (-0.4, -0.18, 0.14, 0.34):
        p.box(x - 0.06, 0.4, x + 0.06, 0.88, face)
    n = 11
    wool = [(0.02 + (0.78 if k % 2 else 0.62) * math.cos(math.pi * k / n) * 0.92 - 0.1, 0.08 + (0.58 if k % 2
        else 0.46) * math.sin(math.pi * k / n)) for k in range(2 * n)]
    p.blob(wool, (246, 240, 228))
    p.oval(0.62, -0.16, 0.22, 0.3, face, -12)
    p.oval(0.42, -0.24, 0.15, 0.08, face, 20)
    p.oval(0.6, -0.46, 0.24, 0.14, (246, 240, 228))
    for s in (-1, 1):
        p.oval(0.62 + s * 0.09, -0.18, 0.055, 0.065, WHITE)
    for x, y in ((-0.4, 0.0), (-0.1, 0.16), (0.1, -0.1)):
        p.ink_arc(x, y, 0.12, 0.1, 20, 250, 0.7)


BEASTS: dict[str, Drawing] = {
    "Elephant": elephant,
    "Giraffe": giraffe,
    "Zebra": zebra,
    "Sheep": sheep,
}
