"""Land, sky and weather (mountain, volcano; moon, star, sun)."""

# Coordinates: packed rows read better than one point per line.
# fmt: off

from __future__ import annotations

import math

from data.mini.world.pen import BLUE, BROWN, GREEN, GREY, ORANGE, RGB, WHITE, YELLOW, Drawing, Pen, shade


def mountain(p: Pen) -> None:
    rock = p.pick((120, 124, 140), (140, 120, 110), (110, 130, 150))
    p.poly([(0.0, 0.78), (0.5, -0.3), (0.98, 0.78)], shade(rock, -0.15))
    p.poly([(-0.98, 0.78), (-0.2, -0.84), (0.56, 0.78)], rock)
    p.poly([(-0.47, -0.28), (-0.2, -0.84), (0.06, -0.28), (-0.08, -0.4), (-0.2, -0.2), (-0.33, -0.4)], WHITE)
    p.poly([(0.36, 0.0), (0.5, -0.3), (0.64, 0.0), (0.5, -0.08)], WHITE)


def volcano(p: Pen) -> None:
    rock = p.pick((120, 90, 80), (100, 86, 90))
    for x, y, r in ((-0.2, -0.66, 0.22), (0.16, -0.76, 0.2), (0.0, -0.5, 0.2)):
        p.oval(x, y, r, r * 0.8, GREY)
    p.poly([(-0.95, 0.86), (-0.3, -0.3), (0.3, -0.3), (0.95, 0.86)], rock)
    p.blob([(-0.3, -0.3), (0, -0.4), (0.3, -0.3), (0.3, 0.16), (0.18, 0.3), (0.1, -0.02), (0.0, 0.5),
        (-0.12, 0.5), (-0.14, 0.0), (-0.24, 0.1)], (240, 96, 30))


def island(p: Pen) -> None:
    p.blob([(-0.78, 0.56), (-0.3, 0.26), (0.3, 0.26), (0.78, 0.56), (0.3, 0.68), (-0.3, 0.68)],
        (240, 214, 150))
    p.limb([(0.1, 0.4), (0.02, 0.0), (0.14, -0.44)], 0.13, BROWN, 0.7)
    for dx, dy in ((-0.6, -0.06), (-0.46, -0.4), (0.1, -0.5), (0.5, -0.3), (0.6, 0.06)):
        p.blob([(0.14, -0.46), (0.14 + dx * 0.5, -0.6 + dy * 0.45), (0.14 + dx, -0.4 + dy),
            (0.14 + dx * 0.5, -0.46 + dy * 0.45)], GREEN)
    for x, y in ((-0.66, 0.74), (0.0, 0.78), (0.66, 0.74), (-0.34, 0.92), (0.34, 0.92)):
        p.limb([(x - 0.28, y + 0.04), (x - 0.1, y - 0.05), (x + 0.1, y + 0.04), (x + 0.28, y - 0.05)], 0.09,
            BLUE)


def moon(p: Pen) -> None:
    gold = p.pick((244, 226, 150), (232, 232, 220))
    outer = [(0.82 * math.cos(a), 0.82 * math.sin(a)) for a in (math.radians(d) for d in range(50, 311, 10))]
    inner = [(0.42 + 0.62 * math.cos(a), 0.62 * math.sin(a)) for a in
        (math.radians(d) for d in range(280, 79, -10))]
    p.poly(outer + inner, gold)
    for x, y, r in ((-0.5, -0.2, 0.09), (-0.44, 0.26, 0.07), (-0.1, 0.6, 0.06)):
        p.oval(x, y, r, r, shade(gold, -0.16))


def star(p: Pen) -> None:
    gold = p.pick(YELLOW, (255, 190, 40))
    r = p.vary(0.36, 0.44)
    p.poly([((0.9 if k % 2 == 0 else r) * math.sin(math.pi * k / 5), -(0.9 if k % 2 == 0 else r) *
        math.cos(math.pi * k / 5)) for k in range(10)], gold)


def sun(p: Pen) -> None:
    gold = p.pick((252, 190, 40), (255, 160, 50), YELLOW)
    for k in range(12):
        a = math.pi * k / 6
        c, s = math.cos(a), math.sin(a)
        p.poly([(0.58 * c - 0.1 * s, 0.58 * s + 0.1 * c), (0.95 * c, 0.95 * s),
            (0.58 * c + 0.1 * s, 0.58 * s - 0.1 * c)], ORANGE)
    p.oval(0, 0, 0.52, 0.52, gold)


def cloud(p: Pen) -> None:
    white = p.pick((236, 242, 250), (206, 220, 236))
    h = p.vary(0.5, 0.66)
    p.blob([(-0.7, 0.46), (-0.95, 0.16), (-0.72, -0.12), (-0.5, -0.14), (-0.3, -h), (0.16, -h), (0.36, -0.24),
        (0.66, -0.24), (0.94, 0.06), (0.8, 0.44), (0.3, 0.5), (-0.3, 0.5)], white)
    p.ink_arc(-0.26, 0.1, 0.24, 0.2, 190, 320, 0.8)
    p.ink_arc(0.3, 0.14, 0.22, 0.18, 190, 330, 0.8)


def snow(p: Pen) -> None:
    ice: RGB = p.pick((130, 190, 230), (110, 170, 220))
    for k in range(6):
        a = math.radians(60 * k + 30)
        c, s = math.cos(a), math.sin(a)
        p.limb([(0, 0), (0.92 * c, 0.92 * s)], 0.12, ice)
        for r in (0.44, 0.7):
            for side in (-1, 1):
                b = a + side * math.radians(48)
                p.limb([(r * c, r * s), (r * c + 0.26 * math.cos(b), r * s + 0.26 * math.sin(b))], 0.09, ice)
    p.oval(0, 0, 0.14, 0.14, ice)


def fire(p: Pen) -> None:
    p.blob([(0, 0.8), (-0.46, 0.62), (-0.62, 0.16), (-0.4, -0.3), (-0.26, 0.0), (-0.1, -0.5), (0.04, -0.95),
        (0.3, -0.4), (0.38, -0.1), (0.52, -0.36), (0.62, 0.2), (0.46, 0.62)], (230, 74, 36))
    p.blob([(0, 0.78), (-0.32, 0.5), (-0.3, 0.16), (-0.12, 0.22), (0.04, -0.36), (0.22, 0.14), (0.34, 0.2),
        (0.3, 0.54)], (250, 150, 40))
    p.blob([(0, 0.76), (-0.16, 0.56), (0.02, 0.2), (0.17, 0.56)], YELLOW)
    for s in (-1, 1):
        p.limb([(-s * 0.6, 0.94), (s * 0.6, 0.72)], 0.16, BROWN)


NATURE: dict[str, Drawing] = {
    "Mountain": mountain,
    "Volcano": volcano,
    "Island": island,
    "Moon": moon,
    "Star": star,
    "Sun": sun,
    "Cloud": cloud,
    "Snow": snow,
    "Fire": fire,
}
