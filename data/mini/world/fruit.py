"""Fruit and vegetables, with their look-alikes (apple, cherry, tomato, orange; lemon, pear)."""

# Coordinates: packed rows read better than one point per line.
# fmt: off

from __future__ import annotations

import math

from data.mini.world.pen import BROWN, DARK_GREEN, GREEN, ORANGE, PURPLE, RED, YELLOW, Drawing, Pen, shade


def apple(p: Pen) -> None:
    skin = p.pick(RED, (200, 40, 50), (150, 190, 60))
    p.limb([(0.0, -0.4), (0.04, -0.66), (0.16, -0.86)], 0.09, BROWN)
    p.blob([(0.08, -0.6), (0.3, -0.86), (0.64, -0.86), (0.44, -0.6)], GREEN)
    p.blob([(0, -0.42), (0.36, -0.58), (0.78, -0.36), (0.76, 0.22), (0.4, 0.8), (0, 0.72), (-0.4, 0.8),
        (-0.76, 0.22), (-0.78, -0.36), (-0.36, -0.58)], skin)
    p.blob([(-0.5, -0.34), (-0.34, -0.3), (-0.5, 0.06), (-0.6, -0.1)], shade(skin, 0.5))


def orange(p: Pen) -> None:
    skin = p.pick(ORANGE, (250, 156, 50))
    p.oval(-0.16, 0.06, 0.7, 0.7, skin)
    for x, y in ((-0.5, -0.1), (-0.3, -0.36), (-0.56, 0.24), (-0.3, 0.5), (-0.14, -0.1)):
        p.dot(x, y, 0.025)
    p.blob([(-0.2, -0.62), (0.0, -0.9), (0.34, -0.86), (0.14, -0.62)], GREEN)
    p.oval(0.4, 0.34, 0.52, 0.52, skin)
    p.oval(0.4, 0.34, 0.42, 0.42, (255, 236, 190))
    for k in range(8):
        a = 45 * k
        p.pie(0.4, 0.34, 0.37, 0.37, a + 4, a + 41, (252, 170, 60))


def tomato(p: Pen) -> None:
    skin = p.pick((222, 50, 40), (232, 74, 44))
    p.blob([(0, -0.44), (0.44, -0.54), (0.86, -0.2), (0.82, 0.36), (0.4, 0.72), (-0.4, 0.72), (-0.82, 0.36),
        (-0.86, -0.2), (-0.44, -0.54)], skin)
    for k in range(5):
        a = math.radians(-90 + 72 * k)
        p.blob([(-0.08 * math.sin(a), -0.46 + 0.06 * math.cos(a)),
            (0.44 * math.cos(a), -0.44 + 0.26 * math.sin(a)),
            (0.08 * math.sin(a), -0.46 - 0.06 * math.cos(a))], GREEN)
    p.limb([(0, -0.46), (0.05, -0.8)], 0.1, GREEN)


def cherry(p: Pen) -> None:
    skin = p.pick((200, 24, 50), (160, 20, 46))
    p.limb([(-0.4, 0.3), (-0.24, -0.3), (0.24, -0.84)], 0.07, GREEN)
    p.limb([(0.46, 0.36), (0.46, -0.2), (0.24, -0.84)], 0.07, GREEN)
    p.blob([(0.22, -0.84), (-0.1, -0.96), (-0.5, -0.72), (-0.14, -0.66)], GREEN)
    for x, y in ((-0.42, 0.5), (0.46, 0.54)):
        p.oval(x, y, 0.38, 0.37, skin)
        p.oval(x - 0.14, y - 0.14, 0.08, 0.08, shade(skin, 0.6))


def strawberry(p: Pen) -> None:
    skin = p.pick((226, 44, 60), (236, 64, 70))
    p.blob([(0, -0.52), (0.44, -0.56), (0.66, -0.26), (0.5, 0.3), (0.12, 0.84), (-0.12, 0.84), (-0.5, 0.3),
        (-0.66, -0.26), (-0.44, -0.56)], skin)
    for x, y in ((-0.36, -0.16), (0, -0.14), (0.36, -0.16), (-0.2, 0.14), (0.2, 0.14), (0, 0.42)):
        p.oval(x, y, 0.045, 0.075, YELLOW)
    for k in range(5):
        x = -0.5 + 0.25 * k
        p.poly([(x * 0.5 - 0.12, -0.62), (x * 1.15, -0.26 - 0.12 * abs(2 - k)), (x * 0.5 + 0.12, -0.62)],
            GREEN)
    p.limb([(0, -0.58), (0.06, -0.9)], 0.09, GREEN)


def banana(p: Pen) -> None:
    skin = p.pick(YELLOW, (244, 216, 80))
    p.blob([(-0.9, -0.34), (-0.76, -0.44), (-0.44, 0.0), (0.1, 0.2), (0.66, -0.12), (0.8, -0.5),
        (0.94, -0.44), (0.9, 0.1), (0.4, 0.6), (-0.3, 0.56), (-0.76, 0.12)], skin)
    p.poly([(0.78, -0.46), (0.82, -0.74), (0.94, -0.74), (0.95, -0.42)], BROWN)
    p.ink([(-0.72, -0.16), (-0.3, 0.3), (0.2, 0.42), (0.7, 0.14)], 0.9, True)


def pear(p: Pen) -> None:
    skin = p.pick((190, 204, 76), (214, 206, 90), (160, 190, 80))
    p.limb([(0, -0.64), (0.06, -0.95)], 0.09, BROWN)
    p.blob([(0, -0.74), (0.26, -0.6), (0.34, -0.16), (0.64, 0.3), (0.5, 0.78), (0, 0.9), (-0.5, 0.78),
        (-0.64, 0.3), (-0.34, -0.16), (-0.26, -0.6)], skin)
    p.blob([(0.04, -0.76), (0.24, -0.94), (0.54, -0.88), (0.3, -0.72)], GREEN)


def lemon(p: Pen) -> None:
    skin = p.pick((248, 226, 60), (250, 234, 90))
    p.blob([(-0.95, 0.1), (-0.74, -0.1), (-0.4, -0.5), (0.2, -0.54), (0.68, -0.2), (0.92, -0.08), (0.9, 0.1),
        (0.7, 0.2), (0.3, 0.56), (-0.36, 0.54), (-0.72, 0.28)], skin)
    p.blob([(0.3, -0.5), (0.5, -0.84), (0.86, -0.8), (0.6, -0.5)], GREEN)
    for x, y in ((-0.3, -0.1), (0.0, 0.2), (0.3, -0.16), (-0.1, -0.3)):
        p.dot(x, y, 0.025)


def watermelon(p: Pen) -> None:
    p.pie(0, -0.4, 0.95, 1.12, 0, 180, DARK_GREEN, centre=False)
    p.pie(0, -0.4, 0.84, 1.0, 0, 180, (226, 244, 200), centre=False)
    p.pie(0, -0.4, 0.76, 0.9, 0, 180, p.pick((232, 66, 76), (240, 90, 90)), centre=False)
    for x, y in (
        (-0.46, -0.2),
        (-0.14, -0.2),
        (0.2, -0.2),
        (0.5, -0.2),
        (-0.28, 0.08),
        (0.04, 0.1),
        (0.34, 0.06),
        (0.0, 0.34),
    ):
        p.dot(x, y, 0.04, 0.06)


def grapes(p: Pen) -> None:
    skin = p.pick(PURPLE, (110, 60, 130), (150, 190, 80))
    p.limb([(0, -0.5), (0.04, -0.95)], 0.1, BROWN)
    p.blob([(0.04, -0.7), (0.3, -0.95), (0.74, -0.8), (0.5, -0.5)], GREEN)
    for row, n in enumerate((4, 3, 3, 2, 1)):
        for k in range(n):
            p.oval((k - (n - 1) / 2) * 0.4, -0.38 + row * 0.29, 0.23, 0.23, skin)


def pineapple(p: Pen) -> None:
    skin = p.pick((230, 170, 56), (222, 150, 50))
    for a in (-50, -25, 0, 25, 50):
        x = math.sin(math.radians(a))
        p.poly([(x * 0.2 - 0.12, -0.3), (x * 0.7, -0.94 + abs(x) * 0.3), (x * 0.2 + 0.12, -0.3)], DARK_GREEN)
    p.oval(0, 0.3, 0.5, 0.64, skin)
    for d in (-0.6, -0.2, 0.2, 0.6):
        half = math.sqrt(1 - d * d)  # of a slanted chord of the unit circle
        u, v = (d + half) * 0.707, (d - half) * 0.707
        for s in (-1, 1):
            p.ink([(s * u * 0.5, 0.3 + v * 0.64), (s * v * 0.5, 0.3 + u * 0.64)], 0.8)


def carrot(p: Pen) -> None:
    skin = p.pick((240, 124, 36), (246, 140, 50))
    for x, y in ((-0.16, -0.9), (0.14, -0.95), (0.4, -0.8)):
        p.limb([(0.05, -0.42), (x, y)], 0.14, GREEN, 0.8)
    p.blob([(-0.2, -0.48), (0.06, -0.54), (0.32, -0.46), (0.34, -0.2), (0.1, 0.5), (-0.06, 0.94),
        (-0.14, 0.9), (-0.24, 0.2), (-0.3, -0.26)], skin)
    for y, x0, x1 in ((-0.2, -0.28, -0.06), (0.06, 0.04, 0.24), (0.3, -0.22, -0.06)):
        p.ink([(x0, y), (x1, y + 0.03)])


def corn(p: Pen) -> None:
    p.blob([(0, -0.95), (0.28, -0.6), (0.32, 0.3), (0, 0.8), (-0.32, 0.3), (-0.28, -0.6)],
        p.pick(YELLOW, (246, 196, 60)))
    for x in (-0.14, 0, 0.14):
        p.ink([(x, -0.72), (x, 0.5)], 0.7)
    for k in range(7):
        p.ink_arc(0, -0.7 + 0.18 * k, 0.27, 0.06, 10, 170, 0.7)
    for s in (-1, 1):
        p.blob([(0, 0.92), (s * 0.24, 0.8), (s * 0.5, 0.3), (s * 0.52, -0.24), (s * 0.24, 0.2), (0, 0.6)],
            GREEN)


FRUIT: dict[str, Drawing] = {
    "Apple": apple,
    "Orange": orange,
    "Tomato": tomato,
    "Cherry": cherry,
    "Strawberry": strawberry,
    "Banana": banana,
    "Pear": pear,
    "Lemon": lemon,
    "Watermelon": watermelon,
    "Grapes": grapes,
    "Pineapple": pineapple,
    "Carrot": carrot,
    "Corn": corn,
}
