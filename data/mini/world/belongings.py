"""Tools and belongings, with their look-alikes (pen, pencil, brush, knife; fork, spoon, key)."""

# Coordinates: packed rows read better than one point per line.
# fmt: off

from __future__ import annotations

import math

from data.mini.world.pen import (
    BLACK,
    BLUE,
    BROWN,
    CREAM,
    GOLD,
    NAVY,
    PINK,
    RED,
    SILVER,
    TAN,
    WHITE,
    YELLOW,
    Drawing,
    Pen,
    shade,
)


def pencil(p: Pen) -> None:
    wood = p.pick(YELLOW, RED, p.paint())
    a = (0.707, -0.707)
    b = (0.707, 0.707)

    def at(u: float, v: float) -> tuple[float, float]:
        return u * a[0] + v * b[0], u * a[1] + v * b[1]

    p.poly([at(0.86, -0.19), at(1.12, -0.19), at(1.12, 0.19), at(0.86, 0.19)], PINK)
    p.poly([at(0.68, -0.19), at(0.86, -0.19), at(0.86, 0.19), at(0.68, 0.19)], SILVER)
    p.poly([at(-0.66, -0.19), at(0.68, -0.19), at(0.68, 0.19), at(-0.66, 0.19)], wood)
    p.ink([at(-0.66, -0.06), at(0.68, -0.06)], 0.7)
    p.ink([at(-0.66, 0.07), at(0.68, 0.07)], 0.7)
    p.poly([at(-1.16, 0), at(-0.66, -0.19), at(-0.66, 0.19)], CREAM)
    p.poly([at(-1.16, 0), at(-0.98, -0.07), at(-0.98, 0.07)], BLACK)


def pen(p: Pen) -> None:
    body = p.pick(NAVY, BLACK, p.paint())
    p.poly([(-0.94, 0.94), (-0.74, 0.5), (-0.5, 0.74)], GOLD)
    p.ink([(-0.9, 0.9), (-0.66, 0.66)], 0.8)
    p.limb([(-0.6, 0.6), (-0.1, 0.1)], 0.32, shade(body, 0.25), smooth=False)
    p.limb([(-0.06, 0.06), (0.84, -0.84)], 0.36, body, 0.9, smooth=False)
    p.limb([(-0.08, 0.08), (0.02, -0.02)], 0.42, GOLD, smooth=False)
    p.limb([(0.8, -0.62), (0.3, -0.08)], 0.09, GOLD)


def brush(p: Pen) -> None:
    paint = p.paint()
    p.limb([(-0.2, 0.2), (0.9, -0.9)], 0.2, p.pick(TAN, BROWN, RED), 0.5, smooth=False)
    p.limb([(-0.42, 0.42), (-0.16, 0.16)], 0.3, SILVER, 0.8, smooth=False)
    p.blob([(-0.3, 0.52), (-0.52, 0.3), (-0.78, 0.5), (-0.95, 0.94), (-0.5, 0.8)], paint)
    p.ink([(-0.46, 0.46), (-0.74, 0.74)], 0.8)


def knife(p: Pen) -> None:
    p.blob([(-0.06, 0.3), (0.3, -0.1), (0.74, -0.62), (0.94, -0.94), (0.6, -0.84), (0.0, -0.34),
        (-0.3, 0.06)], SILVER)
    p.limb([(-0.12, 0.12), (-0.84, 0.84)], 0.28, p.pick(BROWN, BLACK, RED), smooth=False)
    for t in (0.34, 0.54, 0.72):
        p.dot(-t, t, 0.045)


def fork(p: Pen) -> None:
    metal = p.pick(SILVER, (226, 190, 96))
    p.limb([(0, 0.0), (0, 0.92)], 0.15, metal, 1.3, smooth=False)
    p.blob([(-0.3, -0.4), (0.3, -0.4), (0.28, -0.14), (0.08, 0.1), (-0.08, 0.1), (-0.28, -0.14)], metal)
    for x in (-0.25, -0.083, 0.083, 0.25):
        p.box(x - 0.05, -0.95, x + 0.05, -0.3, metal, 0.05)


def spoon(p: Pen) -> None:
    metal = p.pick(SILVER, (226, 190, 96), (200, 150, 96))
    p.limb([(0, -0.2), (0, 0.92)], 0.13, metal, 1.5, smooth=False)
    p.oval(0, -0.52, 0.33, 0.42, metal)
    p.oval(0, -0.52, 0.23, 0.31, shade(metal, -0.18))


def scissors(p: Pen) -> None:
    grip = p.pick(RED, BLUE, p.paint())
    for s in (-1, 1):
        p.ring(s * 0.34, 0.62, 0.22, 0.26, 0.14, grip)
    for s in (-1, 1):
        p.poly([(s * 0.26, 0.42), (s * 0.12, 0.36), (-s * 0.4, -0.94), (-s * 0.12, -0.4)], SILVER)
    p.dot(0, 0.06, 0.06)


def key(p: Pen) -> None:
    metal = p.pick(GOLD, SILVER, (200, 140, 70))
    p.ring(-0.54, 0, 0.3, 0.3, 0.17, metal)
    p.box(-0.18, -0.09, 0.94, 0.09, metal)
    for x, h in ((0.5, 0.36), (0.76, 0.42)):
        p.box(x, 0.05, x + 0.14, h, metal)


def umbrella(p: Pen) -> None:
    cloth = p.paint()
    p.box(-0.04, -0.95, 0.04, 0.7, BROWN)
    p.limb([(0, 0.6), (0.02, 0.84), (0.2, 0.9), (0.32, 0.72)], 0.09, BROWN)
    p.poly(_canopy(), cloth)
    for x in (-0.32, 0.32):
        p.ink([(0, -0.8), (x * 0.8, -0.44), (x, -0.02)], 0.8, True)


def _canopy() -> list[tuple[float, float]]:
    """A dome with four scallops along its lower edge."""
    dome = [(0.94 * math.cos(math.radians(d)), 0.8 * math.sin(math.radians(d))) for d in range(180, 361, 12)]
    scallops = [(x0 + 0.235 - 0.235 * math.cos(t), -0.13 * math.sin(t)) for x0 in (0.47, 0.0, -0.47, -0.94)
        for t in (math.pi * 0.75, math.pi * 0.5, math.pi * 0.25)]
    return dome + scallops


def backpack(p: Pen) -> None:
    cloth = p.paint()
    p.ring(0, -0.76, 0.18, 0.14, 0.08, shade(cloth, -0.3))
    for s in (-1, 1):
        p.box(s * 0.68 - 0.14, 0.06, s * 0.68 + 0.14, 0.7, shade(cloth, -0.25), 0.1)
    p.blob([(-0.56, 0.84), (-0.64, 0.0), (-0.5, -0.62), (0, -0.78), (0.5, -0.62), (0.64, 0.0), (0.56, 0.84),
        (0, 0.9)], cloth)
    p.box(-0.42, 0.2, 0.42, 0.74, shade(cloth, 0.25), 0.1)
    p.ink([(-0.42, 0.34), (0.42, 0.34)])
    p.ink_arc(0, -0.16, 0.46, 0.3, 190, 350)


def suitcase(p: Pen) -> None:
    case = p.pick(BROWN, p.paint())
    p.limb([(-0.26, -0.38), (-0.24, -0.7), (0.24, -0.7), (0.26, -0.38)], 0.1, BLACK)
    p.box(-0.92, -0.42, 0.92, 0.72, case, 0.12)
    for x in (-0.56, 0.56):
        p.box(x - 0.09, -0.42, x + 0.09, 0.72, shade(case, -0.3))
        p.box(x - 0.12, -0.06, x + 0.12, 0.1, GOLD)


def ball(p: Pen) -> None:
    p.oval(0, 0, 0.8, 0.8, WHITE)
    c = [p.pick(RED, p.paint()), p.pick(YELLOW, p.paint()), p.pick(BLUE, p.paint())]
    for k in range(3):
        p.pie(0, 0, 0.8, 0.8, 120 * k + 10, 120 * k + 70, c[k])
    p.oval(0, 0, 0.16, 0.16, WHITE)


def headphones(p: Pen) -> None:
    case = p.pick(BLACK, p.paint())
    arch = [(0.66 * math.cos(math.radians(d)), 0.1 + 0.82 * math.sin(math.radians(d))) for d in
        range(180, 361, 20)]
    p.limb(arch, 0.17, case)
    for s in (-1, 1):
        p.box(s * 0.7 - 0.2, 0.04, s * 0.7 + 0.2, 0.76, case, 0.18)
        p.box(s * 0.46 - 0.1, 0.1, s * 0.46 + 0.1, 0.7, shade(case, 0.4), 0.1)


def guitar(p: Pen) -> None:
    wood = p.pick((206, 130, 60), (180, 90, 50), p.paint())
    p.limb([(-0.2, 0.2), (0.8, -0.8)], 0.14, BROWN, smooth=False)
    p.limb([(0.72, -0.72), (0.92, -0.92)], 0.24, BLACK, smooth=False)
    p.blob([(-0.86, 0.5), (-0.66, 0.16), (-0.34, 0.14), (-0.2, -0.14), (0.06, -0.2), (0.2, -0.06),
        (0.14, 0.2), (-0.14, 0.34), (-0.16, 0.66), (-0.5, 0.86), (-0.8, 0.8)], wood)
    p.oval(-0.2, 0.2, 0.16, 0.16, BLACK)
    p.limb([(-0.64, 0.46), (-0.46, 0.64)], 0.09, BLACK)
    p.ink([(-0.54, 0.54), (0.84, -0.84)], 0.9)


BELONGINGS: dict[str, Drawing] = {
    "Pencil": pencil,
    "Pen": pen,
    "Brush": brush,
    "Knife": knife,
    "Fork": fork,
    "Spoon": spoon,
    "Scissors": scissors,
    "Key": key,
    "Umbrella": umbrella,
    "Backpack": backpack,
    "Suitcase": suitcase,
    "Ball": ball,
    "Headphones": headphones,
    "Guitar": guitar,
}
