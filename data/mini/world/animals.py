"""Beasts that show their face, which reads best at 128 pixels."""

# Coordinates: packed rows read better than one point per line.
# fmt: off

from __future__ import annotations

import math

from data.mini.world.pen import BLACK, BROWN, CREAM, GREY, ORANGE, PINK, RGB, TAN, WHITE, Drawing, Pen, shade


def _eyes(p: Pen, x: float, y: float, r: float) -> None:
    for side in (-1, 1):
        p.dot(side * x, y, r, r * 1.15)


def _smile(p: Pen, y: float, w: float) -> None:
    for side in (-1, 1):
        p.ink_arc(side * w / 2, y, w / 2, w * 0.42, 0, 180)


def _whiskers(p: Pen, y: float, x: float = 0.34) -> None:
    for side in (-1, 1):
        for k in (-1, 0, 1):
            p.ink([(side * x, y + 0.06 * k), (side * (x + 0.52), y + 0.15 * k - 0.04)], 0.7)


def cat(p: Pen) -> None:
    fur = p.pick(ORANGE, GREY, BLACK, TAN, (196, 150, 110), WHITE)
    for s in (-1, 1):
        p.poly([(s * 0.68, -0.12), (s * 0.66, -0.9), (s * 0.1, -0.5)], fur)
        p.poly([(s * 0.58, -0.34), (s * 0.58, -0.72), (s * 0.28, -0.48)], PINK)
    p.oval(0, 0.14, 0.76, p.vary(0.6, 0.68), fur)
    for s in (-1, 1):
        p.oval(s * 0.3, 0.02, 0.15, 0.17, (190, 220, 110))
        p.dot(s * 0.3, 0.02, 0.055, 0.15)
    p.poly([(-0.09, 0.26), (0.09, 0.26), (0, 0.36)], PINK)
    _smile(p, 0.38, 0.2)
    _whiskers(p, 0.34)


def dog(p: Pen) -> None:
    fur, ear = ((TAN, BROWN), (CREAM, (170, 120, 70)), (WHITE, BLACK),
        (BROWN, (90, 56, 34)))[int(p.vary(0, 4))]
    _dog_head(p, fur, ear)


def _dog_head(p: Pen, fur: RGB, ear: RGB) -> None:
    p.blob([(-0.5, -0.66), (0, -0.78), (0.5, -0.66), (0.6, 0.05), (0.42, 0.6), (0, 0.78), (-0.42, 0.6),
        (-0.6, 0.05)], fur)
    for s in (-1, 1):
        p.blob([(s * 0.4, -0.72), (s * 0.72, -0.6), (s * 0.94, 0.1), (s * 0.78, 0.36), (s * 0.58, 0.1)], ear)
    p.blob([(0, 0.56), (0.15, 0.62), (0.13, 0.92), (0, 0.98), (-0.13, 0.92), (-0.15, 0.62)], (236, 110, 120))
    p.oval(0, 0.36, 0.36, 0.32, shade(fur, 0.45))
    p.oval(0, 0.2, 0.17, 0.12, BLACK)
    p.ink([(0, 0.3), (0, 0.46)])
    _smile(p, 0.46, 0.26)
    _eyes(p, 0.27, -0.16, 0.085)


def bear(p: Pen) -> None:
    fur = p.pick(BROWN, (118, 74, 44), (160, 104, 60))
    for s in (-1, 1):
        p.oval(s * 0.58, -0.56, 0.28, 0.28, fur)
        p.oval(s * 0.58, -0.56, 0.15, 0.15, shade(fur, 0.4))
    p.oval(0, 0.08, 0.8, p.vary(0.7, 0.76), fur)
    p.oval(0, 0.34, 0.36, 0.3, shade(fur, 0.55))
    p.oval(0, 0.2, 0.15, 0.11, BLACK)
    _smile(p, 0.42, 0.22)
    _eyes(p, 0.3, -0.1, 0.085)


def panda(p: Pen) -> None:
    for s in (-1, 1):
        p.oval(s * 0.62, -0.58, 0.27, 0.27, BLACK)
    p.oval(0, 0.08, 0.82, p.vary(0.7, 0.76), WHITE)
    for s in (-1, 1):
        p.oval(s * 0.34, -0.02, 0.2, 0.27, BLACK, s * 30)
        p.oval(s * 0.31, -0.03, 0.09, 0.1, WHITE)
        p.dot(s * 0.3, -0.02, 0.05)
    p.oval(0, 0.32, 0.13, 0.09, BLACK)
    _smile(p, 0.42, 0.22)


def fox(p: Pen) -> None:
    fur = p.pick((226, 106, 36), (214, 92, 40), (238, 126, 50))
    for s in (-1, 1):
        p.poly([(s * 0.82, -0.14), (s * 0.72, -0.94), (s * 0.16, -0.44)], fur)
        p.poly([(s * 0.68, -0.36), (s * 0.66, -0.74), (s * 0.36, -0.46)], BLACK)
    p.poly([(-0.92, 0.1), (-0.5, -0.42), (0.5, -0.42), (0.92, 0.1), (0.1, 0.86), (-0.1, 0.86)], fur)
    for s in (-1, 1):
        p.poly([(s * 0.92, 0.1), (s * 0.38, 0.08), (s * 0.06, 0.8), (s * 0.12, 0.86)], WHITE)
    p.oval(0, 0.78, 0.13, 0.11, BLACK)
    _eyes(p, 0.32, 0.0, 0.085)


def lion(p: Pen) -> None:
    mane, fur = p.pick((168, 92, 36), (190, 104, 40), (140, 78, 36)), (238, 186, 96)
    n = 14
    tips = [(0.94 if k % 2 else 0.76, 2 * math.pi * k / (2 * n)) for k in range(2 * n)]
    p.blob([(r * math.cos(a), r * math.sin(a)) for r, a in tips], mane)
    for s in (-1, 1):
        p.oval(s * 0.42, -0.46, 0.16, 0.16, fur)
    p.oval(0, 0.04, 0.55, p.vary(0.54, 0.6), fur)
    p.oval(0, 0.3, 0.28, 0.22, CREAM)
    p.poly([(-0.14, 0.12), (0.14, 0.12), (0, 0.28)], (110, 60, 40))
    _smile(p, 0.34, 0.2)
    _eyes(p, 0.22, -0.08, 0.07)


def tiger(p: Pen) -> None:
    fur = p.pick((240, 150, 50), (246, 164, 66))
    for s in (-1, 1):
        p.oval(s * 0.6, -0.58, 0.24, 0.24, fur)
        p.oval(s * 0.6, -0.58, 0.12, 0.12, WHITE)
    p.oval(0, 0.08, 0.8, p.vary(0.7, 0.76), fur)
    for s in (-1, 1):
        p.oval(s * 0.2, 0.44, 0.24, 0.2, WHITE)
        for y, w in ((-0.1, 0.3), (0.14, 0.34), (0.36, 0.28)):
            p.poly([(s * 0.86, y - 0.07), (s * (0.82 - w), y + 0.04), (s * 0.84, y + 0.08)], BLACK)
        p.poly([(s * 0.32, -0.62), (s * 0.2, -0.6), (s * 0.2, -0.32)], BLACK)
    p.poly([(-0.08, -0.7), (0.08, -0.7), (0, -0.34)], BLACK)
    p.poly([(-0.14, 0.2), (0.14, 0.2), (0, 0.36)], PINK)
    _smile(p, 0.4, 0.22)
    _eyes(p, 0.3, -0.04, 0.085)


def monkey(p: Pen) -> None:
    fur, skin = p.pick((122, 76, 46), (104, 68, 48)), (238, 198, 152)
    for s in (-1, 1):
        p.oval(s * 0.74, 0.0, 0.24, 0.27, fur)
        p.oval(s * 0.74, 0.0, 0.13, 0.16, skin)
    p.oval(0, -0.06, 0.68, 0.74, fur)
    p.blob([(0, -0.3), (0.26, -0.46), (0.5, -0.2), (0.4, 0.14), (0.5, 0.44), (0, 0.7), (-0.5, 0.44),
        (-0.4, 0.14), (-0.5, -0.2), (-0.26, -0.46)], skin)
    _eyes(p, 0.23, -0.12, 0.085)
    for s in (-1, 1):
        p.dot(s * 0.06, 0.16, 0.03)
    p.ink_arc(0, 0.3, 0.28, 0.2, 10, 170, 1.2)


def rabbit(p: Pen) -> None:
    fur = p.pick(WHITE, (222, 206, 190), (190, 160, 130), GREY)
    lean = p.vary(0.04, 0.16)
    for s in (-1, 1):
        p.oval(s * (0.2 + lean), -0.5, 0.17, 0.47, fur, s * 12)
        p.oval(s * (0.2 + lean), -0.48, 0.085, 0.34, PINK, s * 12)
    p.oval(0, 0.38, 0.58, 0.52, fur)
    _eyes(p, 0.24, 0.26, 0.075)
    p.poly([(-0.08, 0.42), (0.08, 0.42), (0, 0.51)], PINK)
    p.box(-0.08, 0.6, 0.08, 0.75, WHITE)
    p.ink([(0, 0.6), (0, 0.75)], 0.7)
    _smile(p, 0.53, 0.2)
    _whiskers(p, 0.48, 0.24)


def deer(p: Pen) -> None:
    fur, horn = p.pick((182, 118, 66), (166, 104, 58)), (120, 80, 50)
    for s in (-1, 1):
        p.limb([(s * 0.18, -0.3), (s * 0.34, -0.56), (s * 0.5, -0.96)], 0.08, horn, 0.6)
        p.limb([(s * 0.33, -0.56), (s * 0.66, -0.64), (s * 0.8, -0.9)], 0.07, horn, 0.6)
        p.limb([(s * 0.28, -0.46), (s * 0.14, -0.66), (s * 0.14, -0.84)], 0.07, horn, 0.6)
        p.blob([(s * 0.32, -0.14), (s * 0.6, -0.3), (s * 0.86, -0.16), (s * 0.62, 0.02)], fur)
    p.blob([(0, -0.36), (0.36, -0.26), (0.4, 0.1), (0.24, 0.62), (0, 0.9), (-0.24, 0.62), (-0.4, 0.1),
        (-0.36, -0.26)], fur)
    p.oval(0, 0.64, 0.24, 0.26, CREAM)
    p.oval(0, 0.6, 0.13, 0.1, BLACK)
    p.ink_arc(0, 0.66, 0.12, 0.1, 20, 160)
    _eyes(p, 0.24, 0.08, 0.075)


def cow(p: Pen) -> None:
    for s in (-1, 1):
        p.limb([(s * 0.36, -0.52), (s * 0.6, -0.66), (s * 0.6, -0.9)], 0.16, CREAM, 0.3)
        p.blob([(s * 0.42, -0.4), (s * 0.8, -0.5), (s * 0.95, -0.24), (s * 0.6, -0.14)], BLACK)
    p.blob([(0, -0.64), (0.46, -0.52), (0.5, 0), (0.42, 0.5), (0, 0.7), (-0.42, 0.5), (-0.5, 0),
        (-0.46, -0.52)], WHITE)
    p.blob([(0.1, -0.6), (0.46, -0.5), (0.49, -0.02), (0.24, 0.1), (0.1, -0.2)], BLACK)
    if p.chance(0.6):
        p.blob([(-0.48, -0.1), (-0.3, -0.02), (-0.26, 0.24), (-0.46, 0.26)], BLACK)
    p.oval(0, 0.52, 0.5, 0.32, PINK)
    for s in (-1, 1):
        p.dot(s * 0.2, 0.46, 0.06, 0.08)
    p.ink_arc(0, 0.54, 0.24, 0.16, 20, 160)
    p.oval(0.27, -0.16, 0.1, 0.12, WHITE)
    _eyes(p, 0.27, -0.16, 0.065)


ANIMALS: dict[str, Drawing] = {
    "Cat": cat,
    "Dog": dog,
    "Bear": bear,
    "Panda": panda,
    "Fox": fox,
    "Lion": lion,
    "Tiger": tiger,
    "Monkey": monkey,
    "Rabbit": rabbit,
    "Deer": deer,
    "Cow": cow,
}
