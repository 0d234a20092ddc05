"""Furniture and tableware (chair, table; cup, bowl, vase, bottle; plate, mirror)."""

# Coordinates: packed rows read better than one point per line.
# fmt: off

from __future__ import annotations

import math

from data.mini.world.pen import (
    BROWN,
    CREAM,
    GOLD,
    GREEN,
    RED,
    TAN,
    WHITE,
    YELLOW,
    Drawing,
    Pen,
    shade,
)


def chair(p: Pen) -> None:
    wood = p.pick(BROWN, TAN, p.paint())
    for x in (-0.46, 0.14):
        p.box(x, -0.1 if x < 0 else 0.1, x + 0.12, 0.74, shade(wood, -0.2))
    p.box(-0.46, -0.92, -0.3, 0.2, wood)
    p.box(0.26, -0.92, 0.42, 0.2, wood)
    for y in (-0.84, -0.56, -0.28):
        p.box(-0.4, y, 0.36, y + 0.14, wood)
    p.box(-0.62, 0.46, -0.48, 0.95, wood)
    p.box(0.46, 0.46, 0.6, 0.95, wood)
    p.poly([(-0.46, 0.12), (0.42, 0.12), (0.64, 0.44), (-0.66, 0.44)], shade(wood, 0.2))
    p.box(-0.66, 0.42, 0.64, 0.54, wood)


def table(p: Pen) -> None:
    wood = p.pick(BROWN, TAN, (170, 110, 60))
    for x in (-0.58, 0.46):
        p.box(x, -0.06, x + 0.12, 0.5, shade(wood, -0.25))
    for x in (-0.84, 0.7):
        p.box(x, 0.1, x + 0.14, 0.86, wood)
    p.poly([(-0.66, -0.34), (0.66, -0.34), (0.96, 0.06), (-0.96, 0.06)], shade(wood, 0.18))
    p.box(-0.96, 0.04, 0.96, 0.18, wood)


def sofa(p: Pen) -> None:
    cloth = p.paint()
    for x in (-0.74, 0.62):
        p.box(x, 0.5, x + 0.12, 0.74, BROWN)
    p.box(-0.78, -0.5, 0.78, 0.3, cloth, 0.18)
    p.ink([(0, -0.48), (0, 0.1)], 0.8)
    for s in (-1, 1):
        p.box(min(0, s * 0.64), 0.04, max(0, s * 0.64), 0.34, shade(cloth, 0.25), 0.08)
    p.box(-0.7, 0.3, 0.7, 0.58, cloth)
    for s in (-1, 1):
        p.box(s * 0.8 - 0.17, -0.14, s * 0.8 + 0.17, 0.6, shade(cloth, -0.15), 0.16)


def bed(p: Pen) -> None:
    wood, cloth = p.pick(BROWN, TAN), p.paint()
    p.box(-0.95, -0.6, -0.8, 0.7, wood, 0.06)
    p.box(0.8, -0.1, 0.95, 0.7, wood, 0.06)
    p.box(-0.84, 0.26, 0.84, 0.5, wood)
    p.box(-0.82, 0.0, 0.82, 0.3, WHITE, 0.08)
    p.box(-0.78, -0.24, -0.3, 0.06, CREAM, 0.12)
    p.blob([(-0.2, -0.06), (0.3, -0.14), (0.78, -0.1), (0.84, 0.1), (0.82, 0.4), (0.2, 0.38), (-0.26, 0.4),
        (-0.32, 0.1)], cloth)


def lamp(p: Pen) -> None:
    cover = p.pick(YELLOW, p.paint())
    p.oval(0, 0.8, 0.4, 0.13, BROWN)
    p.box(-0.055, -0.1, 0.055, 0.78, BROWN)
    p.poly([(-0.34, -0.86), (0.34, -0.86), (0.7, 0.0), (-0.7, 0.0)], cover)
    p.ink([(0.4, 0.0), (0.4, 0.34)])
    p.dot(0.4, 0.38, 0.05)


def clock(p: Pen) -> None:
    rim = p.pick(RED, BROWN, p.paint())
    for s in (-1, 1):
        p.oval(s * 0.46, -0.72, 0.24, 0.17, rim, s * 38)
        p.limb([(s * 0.4, 0.6), (s * 0.58, 0.92)], 0.13, BROWN)
    p.oval(0, 0, 0.76, 0.76, rim)
    p.oval(0, 0, 0.6, 0.6, WHITE)
    for k in range(12):
        a = math.pi * k / 6
        p.ink([(0.46 * math.cos(a), 0.46 * math.sin(a)), (0.54 * math.cos(a), 0.54 * math.sin(a))], 1.0)
    a = p.vary(0, 2 * math.pi)
    p.ink([(0, 0), (0.4 * math.cos(a), 0.4 * math.sin(a))], 1.4)
    p.ink([(0, 0), (0.26 * math.cos(a * 5), 0.26 * math.sin(a * 5))], 2.0)


def mirror(p: Pen) -> None:
    frame = p.pick(GOLD, BROWN, (200, 150, 90))
    p.oval(0, -0.24, 0.6, 0.66, frame)
    p.oval(0, -0.24, 0.46, 0.52, (200, 228, 242))
    for x in (-0.24, -0.02):
        p.limb([(x, 0.06), (x + 0.3, -0.5)], 0.07, WHITE)
    p.box(-0.1, 0.4, 0.1, 0.95, frame, 0.08)


def vase(p: Pen) -> None:
    glaze = p.paint()
    for x, y in ((-0.36, -0.7), (0.02, -0.84), (0.38, -0.66)):
        p.limb([(0, 0.0), (x * 0.6, -0.4), (x, y)], 0.06, GREEN)
        c = p.pick(RED, YELLOW, (250, 160, 190))
        for k in range(5):
            a = 2 * math.pi * k / 5
            p.oval(x + 0.1 * math.cos(a), y + 0.1 * math.sin(a), 0.085, 0.085, c)
        p.oval(x, y, 0.06, 0.06, WHITE)
    p.blob([(-0.24, -0.12), (0.24, -0.12), (0.18, 0.08), (0.5, 0.4), (0.4, 0.8), (0.2, 0.92), (-0.2, 0.92),
        (-0.4, 0.8), (-0.5, 0.4), (-0.18, 0.08)], glaze)
    p.limb([(-0.46, 0.36), (0, 0.46), (0.46, 0.36)], 0.12, shade(glaze, 0.5))


def plate(p: Pen) -> None:
    p.oval(0, 0, 0.92, 0.92, WHITE)
    p.oval(0, 0, 0.78, 0.78, p.paint())
    p.oval(0, 0, 0.6, 0.6, WHITE)
    p.ink_arc(0, 0, 0.46, 0.46, 190, 260, 0.8)


def cup(p: Pen) -> None:
    glaze = p.paint()
    for k in (-1, 0, 1):
        p.ink([(k * 0.2 - 0.1, -0.42), (k * 0.2 - 0.04, -0.6), (k * 0.2 - 0.14, -0.74),
            (k * 0.2 - 0.06, -0.9)], 1.0, True)
    p.ring(0.58, 0.16, 0.26, 0.26, 0.13, glaze)
    p.box(-0.62, -0.26, 0.52, 0.8, glaze, 0.18)
    p.oval(-0.05, -0.26, 0.57, 0.14, shade(glaze, 0.4))
    p.oval(-0.05, -0.24, 0.46, 0.09, (100, 60, 40))


def bowl(p: Pen) -> None:
    glaze = p.paint()
    p.box(-0.3, 0.6, 0.3, 0.8, shade(glaze, -0.2))
    p.pie(0, -0.1, 0.92, 0.84, 0, 180, glaze, centre=False)
    p.oval(0, -0.1, 0.92, 0.22, shade(glaze, 0.45))
    p.oval(0, -0.08, 0.76, 0.14, p.pick(CREAM, (236, 170, 90), (190, 80, 50)))
    for s in (-1, 1):
        p.limb([(s * 0.1, -0.1), (s * 0.06 + 0.5, -0.92)], 0.06, BROWN)


def bottle(p: Pen) -> None:
    glass = p.pick((60, 140, 90), (90, 160, 200), (150, 90, 50))
    p.box(-0.15, -0.95, 0.15, -0.78, RED)
    p.blob([(-0.13, -0.8), (0.13, -0.8), (0.14, -0.4), (0.38, -0.1), (0.38, 0.84), (0.26, 0.94),
        (-0.26, 0.94), (-0.38, 0.84), (-0.38, -0.1), (-0.14, -0.4)], glass)
    p.box(-0.36, 0.14, 0.36, 0.6, CREAM)
    for y in (0.28, 0.42):
        p.ink([(-0.2, y), (0.2, y)], 0.8)


def teapot(p: Pen) -> None:
    glaze = p.paint()
    p.ring(-0.66, 0.14, 0.26, 0.3, 0.12, glaze)
    p.limb([(0.4, 0.4), (0.68, 0.2), (0.92, -0.3)], 0.28, glaze, 0.5)
    p.oval(-0.05, 0.24, 0.62, 0.54, glaze)
    p.pie(-0.05, -0.2, 0.36, 0.18, 180, 360, shade(glaze, -0.2), centre=False)
    p.oval(-0.05, -0.44, 0.1, 0.1, shade(glaze, -0.2))
    p.oval(-0.05, 0.3, 0.26, 0.2, shade(glaze, 0.5))


def candle(p: Pen) -> None:
    wax = p.pick(CREAM, RED, p.paint())
    p.ring(0.6, 0.7, 0.2, 0.15, 0.08, GOLD)
    p.oval(0, 0.8, 0.62, 0.14, GOLD)
    p.box(-0.22, -0.3, 0.22, 0.8, wax, 0.03)
    p.blob([(-0.22, -0.32), (0.22, -0.32), (0.22, 0.1), (0.12, 0.12), (0.08, -0.1), (-0.06, -0.08),
        (-0.1, 0.0), (-0.22, -0.06)], shade(wax, 0.4))
    p.blob([(0, -0.95), (0.16, -0.56), (0, -0.38), (-0.16, -0.56)], (252, 170, 50))
    p.blob([(0, -0.72), (0.07, -0.52), (0, -0.42), (-0.07, -0.52)], YELLOW)


HOUSEHOLD: dict[str, Drawing] = {
    "Chair": chair,
    "Table": table,
    "Sofa": sofa,
    "Bed": bed,
    "Lamp": lamp,
    "Clock": clock,
    "Mirror": mirror,
    "Vase": vase,
    "Plate": plate,
    "Cup": cup,
    "Bowl": bowl,
    "Bottle": bottle,
    "Teapot": teapot,
    "Candle": candle,
}
