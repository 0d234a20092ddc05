"""Buildings and landmarks (house, barn, church, castle; lighthouse, tower, windmill)."""

# Coordinates: packed rows read better than one point per line.
# fmt: off

from __future__ import annotations

import math
from itertools import pairwise

from data.mini.world.pen import (
    BLACK,
    BROWN,
    CREAM,
    GLASS,
    GOLD,
    GREEN,
    GREY,
    RED,
    SILVER,
    SKY,
    WHITE,
    YELLOW,
    Drawing,
    Pen,
    shade,
)


def house(p: Pen) -> None:
    wall, roof = p.pick(CREAM, WHITE, p.paint()), p.pick(RED, BROWN, (90, 100, 130))
    p.box(0.34, -0.8, 0.54, -0.3, BROWN)
    p.box(-0.7, -0.14, 0.7, 0.84, wall)
    p.poly([(-0.95, -0.08), (0, -0.86), (0.95, -0.08)], roof)
    p.box(-0.16, 0.28, 0.16, 0.84, BROWN)
    for x in (-0.44, 0.44):
        p.box(x - 0.16, 0.1, x + 0.16, 0.42, GLASS)
        p.ink([(x, 0.1), (x, 0.42)], 0.8)
        p.ink([(x - 0.16, 0.26), (x + 0.16, 0.26)], 0.8)
    p.dot(0.08, 0.58, 0.03)


def barn(p: Pen) -> None:
    wall = p.pick((190, 50, 44), (170, 60, 50))
    p.poly([(-0.78, 0.84), (-0.78, -0.16), (-0.5, -0.6), (0, -0.82), (0.5, -0.6), (0.78, -0.16),
        (0.78, 0.84)], wall)
    p.limb([(-0.88, -0.02), (-0.54, -0.62), (0, -0.88), (0.54, -0.62), (0.88, -0.02)], 0.14, GREY,
        smooth=False)
    p.box(-0.36, 0.14, 0.36, 0.84, WHITE)
    p.ink([(-0.36, 0.14), (0.36, 0.84)], 1.5)
    p.ink([(0.36, 0.14), (-0.36, 0.84)], 1.5)
    p.box(-0.16, -0.46, 0.16, -0.14, CREAM)


def church(p: Pen) -> None:
    wall, roof = p.pick(CREAM, WHITE, (206, 190, 170)), p.pick((90, 100, 130), BROWN, RED)
    p.box(-0.06, 0.1, 0.9, 0.86, wall)
    p.poly([(-0.1, 0.14), (0.1, -0.3), (0.8, -0.3), (0.98, 0.14)], roof)
    p.box(-0.72, -0.3, -0.06, 0.86, wall)
    p.poly([(-0.8, -0.26), (-0.39, -0.8), (0.02, -0.26)], roof)
    p.box(-0.42, -0.98, -0.36, -0.7, GOLD)
    p.box(-0.5, -0.92, -0.28, -0.86, GOLD)
    p.oval(-0.39, 0.0, 0.14, 0.14, GLASS)
    p.box(-0.54, 0.4, -0.24, 0.86, BROWN, 0.14)
    for x in (0.22, 0.6):
        p.box(x - 0.1, 0.3, x + 0.1, 0.66, GLASS, 0.1)


def castle(p: Pen) -> None:
    stone = p.pick((170, 170, 180), (196, 180, 150), (150, 156, 170))
    flag = p.pick(RED, p.paint())
    for s in (-1, 1):
        p.ink([(s * 0.7, -0.66), (s * 0.7, -0.98)])
        p.poly([(s * 0.7, -0.97), (s * 0.7 + 0.26, -0.89), (s * 0.7, -0.8)], flag)
        p.box(s * 0.7 - 0.24, -0.4, s * 0.7 + 0.24, 0.84, stone)
        p.poly([(s * 0.7 - 0.3, -0.36), (s * 0.7, -0.8), (s * 0.7 + 0.3, -0.36)], shade(flag, -0.2))
        p.box(s * 0.7 - 0.08, -0.16, s * 0.7 + 0.08, 0.12, BLACK, 0.07)
    for x in (-0.42, -0.1, 0.22):
        p.box(x, -0.1, x + 0.2, 0.2, stone)
    p.box(-0.48, 0.08, 0.48, 0.84, shade(stone, 0.15))
    p.box(-0.22, 0.34, 0.22, 0.84, BROWN, 0.2)


def lighthouse(p: Pen) -> None:
    band = p.pick(RED, (60, 90, 160), p.paint())
    for s in (-1, 1):
        p.poly([(s * 0.16, -0.6), (s * 0.95, -0.8), (s * 0.95, -0.38)], (255, 240, 170))
    p.blob([(-0.7, 0.95), (-0.5, 0.74), (0, 0.68), (0.5, 0.74), (0.7, 0.95)], GREY)
    for k in range(4):
        y0, y1 = -0.4 + 0.29 * k, -0.11 + 0.29 * k
        w0, w1 = 0.22 + 0.045 * k, 0.265 + 0.045 * k
        p.poly([(-w0, y0), (w0, y0), (w1, y1), (-w1, y1)], band if k % 2 else WHITE)
    p.box(-0.16, -0.74, 0.16, -0.44, YELLOW)
    p.box(-0.3, -0.48, 0.3, -0.38, BLACK)
    p.poly([(-0.24, -0.72), (0, -0.96), (0.24, -0.72)], band)


def tower(p: Pen) -> None:
    iron = p.pick((120, 110, 110), (150, 110, 80), (100, 110, 130))
    for s in (-1, 1):
        p.limb([(s * 0.7, 0.92), (s * 0.36, 0.3), (s * 0.16, -0.3), (0, -0.8)], 0.12, iron, 0.6)
    p.box(-0.03, -0.98, 0.03, -0.7, iron)
    p.box(-0.52, 0.34, 0.52, 0.46, iron)
    p.box(-0.26, -0.22, 0.26, -0.12, iron)
    p.ink_arc(0, 0.92, 0.5, 0.4, 180, 360, 1.6)
    for y0, y1, w0, w1 in ((-0.1, 0.34, 0.16, 0.36), (-0.62, -0.22, 0.06, 0.15)):
        p.ink([(-w0, y0), (w1, y1)])
        p.ink([(w0, y0), (-w1, y1)])


def windmill(p: Pen) -> None:
    wall = p.pick(CREAM, WHITE, (200, 150, 110))
    p.poly([(-0.46, 0.92), (-0.28, -0.16), (0.28, -0.16), (0.46, 0.92)], wall)
    p.pie(0, -0.14, 0.34, 0.3, 180, 360, p.pick(RED, BROWN), centre=False)
    p.box(-0.13, 0.54, 0.13, 0.92, BROWN, 0.1)
    p.box(-0.09, 0.14, 0.09, 0.34, GLASS)
    turn = p.vary(20, 70)
    for k in range(4):
        a = math.radians(turn + 90 * k)
        c, s = math.cos(a), math.sin(a)
        p.poly([(0.1 * c, -0.2 + 0.1 * s), (0.76 * c, -0.2 + 0.76 * s),
            (0.76 * c - 0.2 * s, -0.2 + 0.76 * s + 0.2 * c), (0.2 * c - 0.2 * s, -0.2 + 0.2 * s + 0.2 * c)],
            SILVER)
        p.limb([(0, -0.2), (0.78 * c, -0.2 + 0.78 * s)], 0.07, BROWN)
    p.dot(0, -0.2, 0.07)


def factory(p: Pen) -> None:
    wall = p.pick((190, 110, 84), GREY, (206, 170, 130))
    for x, y in ((-0.5, -0.8), (-0.3, -0.9), (-0.06, -0.84)):
        p.oval(x, y, 0.2, 0.14, SILVER)
    p.poly([(-0.8, 0.84), (-0.74, -0.66), (-0.5, -0.66), (-0.44, 0.84)], shade(wall, -0.25))
    p.poly([(-0.5, 0.84), (-0.5, 0.1), (-0.06, -0.24), (-0.06, 0.1), (0.42, -0.24), (0.42, 0.1),
        (0.92, -0.24), (0.92, 0.84)], wall)
    for x in (-0.34, 0.04, 0.42):
        p.box(x, 0.26, x + 0.26, 0.48, GLASS)
    p.box(0.04, 0.58, 0.36, 0.84, BLACK)


def bridge(p: Pen) -> None:
    paint = p.pick(RED, (200, 90, 60), GREY)
    for x in (-0.5, 0.5):
        p.box(x - 0.08, -0.74, x + 0.08, 0.7, paint)
    p.box(-0.98, 0.2, 0.98, 0.34, shade(paint, -0.2))
    sag = [(-0.98, 0.1), (-0.5, -0.7), (-0.25, -0.18), (0, 0.04), (0.25, -0.18), (0.5, -0.7), (0.98, 0.1)]
    for a, b in pairwise(sag):
        p.limb([a, b], 0.07, paint)
    for x, y in ((-0.74, -0.3), (-0.25, -0.16), (0, 0.04), (0.25, -0.16), (0.74, -0.3)):
        p.ink([(x, y), (x, 0.2)], 0.9)
    for x in (-0.6, 0.0, 0.6):
        p.limb([(x - 0.34, 0.82), (x - 0.12, 0.72), (x + 0.12, 0.82), (x + 0.34, 0.72)], 0.09, SKY)


def tent(p: Pen) -> None:
    cloth = p.pick(RED, YELLOW, p.paint())
    p.ink([(0, -0.62), (0, -0.95)])
    p.poly([(0, -0.94), (0.3, -0.86), (0, -0.76)], p.paint())
    for k in range(4):
        x0, x1 = -0.92 + 0.46 * k, -0.46 + 0.46 * k
        p.poly([(0, -0.66), (x0 * 0.9, -0.02), (x0, 0.84), (x1, 0.84), (x1 * 0.9, -0.02)], cloth if k % 2 else
            WHITE)
    p.poly([(0, 0.06), (-0.22, 0.84), (0.22, 0.84)], BLACK)


def fence(p: Pen) -> None:
    wood = p.pick(WHITE, BROWN, (200, 160, 110))
    for y in (-0.24, 0.34):
        p.box(-0.96, y, 0.96, y + 0.14, shade(wood, -0.15))
    for x in (-0.74, -0.37, 0.0, 0.37, 0.74):
        p.poly([(x - 0.13, 0.76), (x - 0.13, -0.46), (x, -0.7), (x + 0.13, -0.46), (x + 0.13, 0.76)], wood)
    for x in (-0.92, -0.56, -0.18, 0.2, 0.56, 0.9):
        p.poly([(x - 0.09, 0.86), (x - 0.05, 0.6), (x, 0.74), (x + 0.05, 0.56), (x + 0.1, 0.86)], GREEN)


BUILDINGS: dict[str, Drawing] = {
    "House": house,
    "Barn": barn,
    "Church": church,
    "Castle": castle,
    "Lighthouse": lighthouse,
    "Tower": tower,
    "Windmill": windmill,
    "Factory": factory,
    "Bridge": bridge,
    "Tent": tent,
    "Fence": fence,
}
