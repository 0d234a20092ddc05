"""Trees, flowers and mushrooms, with their look-alikes (flower, sunflower, tulip, rose)."""

# Coordinates: packed rows read better than one point per line.
# fmt: off

from __future__ import annotations

import math

from data.mini.world.pen import (
    BLUE,
    BROWN,
    CREAM,
    DARK_GREEN,
    GREEN,
    PINK,
    PURPLE,
    RED,
    WHITE,
    YELLOW,
    Drawing,
    Pen,
    shade,
)


def _stem(p: Pen, top: float, leaves: bool = True) -> None:
    p.limb([(0, top), (0.03, 0.4), (0, 0.95)], 0.09, GREEN)
    if leaves:
        p.blob([(0.02, 0.8), (0.22, 0.42), (0.56, 0.3), (0.4, 0.66)], GREEN)
        p.blob([(-0.02, 0.86), (-0.2, 0.54), (-0.5, 0.44), (-0.36, 0.76)], GREEN)


def tree(p: Pen) -> None:
    leaf = p.pick(GREEN, DARK_GREEN, (110, 170, 70), (226, 140, 60))
    p.poly([(-0.13, 0.95), (-0.1, 0.1), (0.1, 0.1), (0.14, 0.95)], BROWN)
    p.limb([(0.02, 0.4), (0.3, 0.1)], 0.1, BROWN)
    n, r = 9, p.vary(0.5, 0.58)
    crown = [((r + (0.1 if k % 2 else -0.04)) * 1.25 * math.cos(math.pi * k / n), -0.34 +
        (r + (0.08 if k % 2 else -0.04)) * math.sin(math.pi * k / n)) for k in range(2 * n)]
    p.blob(crown, leaf)
    for x, y in ((-0.3, -0.4), (0.16, -0.56), (0.3, -0.16), (-0.1, -0.1)):
        p.ink_arc(x, y, 0.14, 0.11, 180, 350, 0.7)


def pine(p: Pen) -> None:
    leaf = p.pick(DARK_GREEN, (50, 120, 90), (60, 130, 60))
    p.box(-0.1, 0.56, 0.1, 0.95, BROWN)
    for y, w, h in ((0.66, 0.7, 0.62), (0.24, 0.56, 0.58), (-0.16, 0.42, 0.56), (-0.5, 0.28, 0.44)):
        p.poly([(-w, y), (0, y - h), (w, y)], leaf)


def cactus(p: Pen) -> None:
    skin = p.pick((80, 160, 90), (60, 140, 84))
    pot = p.pick((206, 110, 64), p.paint())
    p.limb([(-0.1, 0.1), (-0.56, 0.06), (-0.58, -0.36)], 0.24, skin)
    p.limb([(0.1, -0.06), (0.52, -0.1), (0.54, -0.56)], 0.24, skin)
    p.box(-0.22, -0.9, 0.22, 0.6, skin, 0.22)
    for x in (-0.09, 0.09):
        p.ink([(x, -0.7), (x, 0.42)], 0.7)
    p.poly([(-0.4, 0.52), (0.4, 0.52), (0.3, 0.95), (-0.3, 0.95)], pot)
    p.box(-0.46, 0.4, 0.46, 0.56, shade(pot, 0.15))
    if p.chance(0.5):
        p.oval(0, -0.9, 0.13, 0.09, PINK)


def flower(p: Pen) -> None:
    petal = p.pick(RED, PINK, WHITE, PURPLE, BLUE)
    _stem(p, -0.3)
    for k in range(6):
        a = math.pi * k / 3
        p.oval(0.31 * math.cos(a), -0.4 + 0.31 * math.sin(a), 0.22, 0.17, petal, math.degrees(a))
    p.oval(0, -0.4, 0.18, 0.18, YELLOW)


def sunflower(p: Pen) -> None:
    _stem(p, -0.2)
    for k in range(16):
        a = math.pi * k / 8
        c, s = math.cos(a), math.sin(a)
        p.blob([(0.28 * c - 0.1 * s, -0.3 + 0.28 * s + 0.1 * c), (0.64 * c, -0.3 + 0.64 * s),
            (0.28 * c + 0.1 * s, -0.3 + 0.28 * s - 0.1 * c)], (250, 196, 40))
    p.oval(0, -0.3, 0.34, 0.34, (108, 66, 36))
    for y in (-0.46, -0.3, -0.14):
        for x in (-0.16, 0, 0.16):
            p.dot(x, y, 0.035)


def tulip(p: Pen) -> None:
    petal = p.pick(RED, PINK, YELLOW, PURPLE)
    p.limb([(0, 0), (0, 0.95)], 0.08, GREEN)
    p.blob([(0.02, 0.9), (0.12, 0.4), (0.5, 0.0), (0.36, 0.56)], GREEN)
    p.blob([(-0.02, 0.9), (-0.12, 0.5), (-0.46, 0.16), (-0.32, 0.66)], GREEN)
    p.poly([(-0.14, -0.5), (0, -0.94), (0.14, -0.5)], shade(petal, -0.2))
    for s in (-1, 1):
        p.blob([(0, 0.06), (s * 0.38, -0.1), (s * 0.46, -0.5), (s * 0.4, -0.86), (s * 0.14, -0.6),
            (0, -0.36)], petal)


def rose(p: Pen) -> None:
    petal = p.pick(RED, (226, 70, 110), (240, 150, 160))
    _stem(p, -0.1)
    for k in range(5):
        a = math.radians(90 + 72 * k)
        p.oval(0.22 * math.cos(a), -0.42 + 0.2 * math.sin(a), 0.32, 0.3, petal)
    p.oval(0, -0.44, 0.33, 0.3, shade(petal, -0.1))
    t = [0.4 * k for k in range(28)]
    p.ink([(0.029 * a * math.cos(a), -0.44 + 0.026 * a * math.sin(a)) for a in t], 1.2)


def bamboo(p: Pen) -> None:
    green = p.pick((110, 176, 80), (130, 186, 96))
    for x, top in ((-0.44, -0.7), (0.02, -0.94), (0.46, -0.6)):
        y = 0.95
        while y > top:
            p.box(x - 0.11, max(top, y - 0.42), x + 0.11, y, green, 0.04)
            y -= 0.42
    for x, y, s in (
        (-0.33, -0.3, 1),
        (0.13, -0.5, 1),
        (-0.09, -0.6, -1),
        (0.35, -0.2, -1),
        (0.57, -0.3, 1),
        (-0.55, 0.0, -1),
    ):
        p.blob([(x, y), (x + s * 0.16, y - 0.16), (x + s * 0.38, y - 0.14), (x + s * 0.2, y - 0.01)],
            DARK_GREEN)


def mushroom(p: Pen) -> None:
    cap = p.pick(RED, BROWN, (226, 120, 60))
    p.blob([(-0.2, 0.0), (-0.24, 0.5), (-0.3, 0.86), (0, 0.92), (0.3, 0.86), (0.24, 0.5), (0.2, 0.0)], CREAM)
    p.pie(0, 0.14, 0.86, p.vary(0.86, 1.0), 180, 360, cap, centre=False)
    for x, y, r in ((-0.48, -0.14, 0.13), (0.0, -0.5, 0.16), (0.46, -0.2, 0.15), (-0.02, -0.06, 0.1)):
        p.oval(x, y, r, r * 0.85, WHITE)


def leaf(p: Pen) -> None:
    green = p.pick(GREEN, (120, 180, 70), (220, 130, 50), DARK_GREEN)
    p.limb([(-0.44, 0.44), (-0.9, 0.86)], 0.07, shade(green, -0.3))
    p.blob([(-0.5, 0.5), (-0.62, -0.2), (-0.1, -0.7), (0.86, -0.86), (0.7, 0.1), (0.2, 0.62)], green)
    p.ink([(-0.5, 0.5), (0.7, -0.7)], 1.2)
    for t in (0.2, 0.45, 0.7):
        x, y = -0.5 + 1.2 * t, 0.5 - 1.2 * t
        p.ink([(x, y), (x - 0.04, y - 0.36 + 0.1 * t)], 0.8)
        p.ink([(x, y), (x + 0.36 - 0.1 * t, y + 0.04)], 0.8)


PLANTS: dict[str, Drawing] = {
    "Tree": tree,
    "Pine": pine,
    "Cactus": cactus,
    "Flower": flower,
    "Sunflower": sunflower,
    "Tulip": tulip,
    "Rose": rose,
    "Bamboo": bamboo,
    "Mushroom": mushroom,
    "Leaf": leaf,
}
