"""Things to wear (hat, crown; ring, watch, glasses)."""

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
    RED,
    SILVER,
    WHITE,
    YELLOW,
    Drawing,
    Pen,
    shade,
)


def hat(p: Pen) -> None:
    felt = p.pick(BLACK, BROWN, p.paint())
    p.oval(0, 0.5, 0.95, 0.22, felt)
    p.blob([(-0.5, 0.46), (-0.52, -0.1), (-0.44, -0.58), (-0.14, -0.66), (0, -0.54), (0.14, -0.66),
        (0.44, -0.58), (0.52, -0.1), (0.5, 0.46), (0, 0.54)], felt)
    p.poly([(-0.53, 0.12), (0.53, 0.12), (0.52, 0.42), (0, 0.5), (-0.52, 0.42)], p.pick(RED, CREAM, GOLD))


def crown(p: Pen) -> None:
    gold = p.pick(GOLD, YELLOW)
    p.poly([(-0.8, 0.6), (-0.92, -0.5), (-0.44, 0.04), (0, -0.74), (0.44, 0.04), (0.92, -0.5), (0.8, 0.6)],
        gold)
    p.box(-0.8, 0.42, 0.8, 0.7, shade(gold, -0.2))
    for x, y, c in (
        (-0.9, -0.52, RED),
        (0, -0.76, BLUE),
        (0.9, -0.52, RED),
        (-0.4, 0.56, BLUE),
        (0, 0.56, RED),
        (0.4, 0.56, BLUE),
    ):
        p.oval(x, y, 0.1, 0.1, c)


def shirt(p: Pen) -> None:
    cloth = p.paint()
    p.poly([(-0.36, -0.72), (-0.95, -0.34), (-0.74, 0.1), (-0.5, -0.06), (-0.5, 0.82), (0.5, 0.82),
        (0.5, -0.06), (0.74, 0.1), (0.95, -0.34), (0.36, -0.72)], cloth)
    p.pie(0, -0.72, 0.28, 0.28, 0, 180, shade(cloth, -0.35), centre=False)
    p.box(-0.5, 0.2, 0.5, 0.4, shade(cloth, 0.55))


def pants(p: Pen) -> None:
    cloth = p.pick((70, 100, 160), p.paint())
    p.poly([(-0.52, -0.86), (0.52, -0.86), (0.66, 0.92), (0.18, 0.92), (0, -0.16), (-0.18, 0.92),
        (-0.66, 0.92)], cloth)
    p.box(-0.54, -0.92, 0.54, -0.7, BROWN)
    p.box(-0.1, -0.93, 0.1, -0.69, GOLD)
    p.ink([(0, -0.7), (0, -0.2)])
    for s in (-1, 1):
        p.ink([(s * 0.5, -0.46), (s * 0.3, -0.5), (s * 0.26, -0.7)], 0.8)


def dress(p: Pen) -> None:
    cloth = p.paint()
    for s in (-1, 1):
        p.limb([(s * 0.2, -0.6), (s * 0.17, -0.94)], 0.1, cloth)
    p.blob([(-0.22, -0.02), (-0.82, 0.8), (-0.4, 0.92), (0, 0.84), (0.4, 0.92), (0.82, 0.8), (0.22, -0.02)],
        cloth)
    p.poly([(-0.3, -0.64), (0, -0.52), (0.3, -0.64), (0.24, 0.0), (-0.24, 0.0)], cloth)
    p.box(-0.27, -0.08, 0.27, 0.08, shade(cloth, -0.4))
    for x in (-0.3, 0.3):
        p.ink([(x * 0.4, 0.16), (x, 0.84)], 0.8)


def glove(p: Pen) -> None:
    cloth = p.paint()
    p.limb([(-0.3, 0.4), (-0.66, 0.06), (-0.72, -0.14)], 0.28, cloth)
    for x, y in ((-0.3, -0.6), (-0.05, -0.78), (0.2, -0.72), (0.42, -0.46)):
        p.limb([(x * 0.8, 0.2), (x, y)], 0.23, cloth)
    p.blob([(-0.44, 0.0), (0.0, -0.12), (0.46, 0.0), (0.42, 0.62), (-0.36, 0.62)], cloth)
    p.box(-0.44, 0.54, 0.5, 0.92, shade(cloth, 0.5), 0.06)
    for x in (-0.2, 0.03, 0.26):
        p.ink([(x, 0.58), (x, 0.88)], 0.8)


def glasses(p: Pen) -> None:
    frame = p.pick(BLACK, BROWN, p.paint())
    for s in (-1, 1):
        p.limb([(s * 0.86, -0.06), (s * 0.95, -0.34), (s * 0.76, -0.46)], 0.08, frame)
    p.limb([(-0.2, 0.02), (0, -0.1), (0.2, 0.02)], 0.1, frame)
    for s in (-1, 1):
        p.oval(s * 0.5, 0.08, 0.42, 0.38, frame)
        p.oval(s * 0.5, 0.08, 0.31, 0.27, (206, 232, 244))
        p.ink([(s * 0.5 - 0.1, 0.18), (s * 0.5 + 0.12, -0.06)], 0.9)


def watch(p: Pen) -> None:
    strap = p.pick(BROWN, BLACK, p.paint())
    p.poly([(-0.26, -0.4), (-0.2, -0.95), (0.2, -0.95), (0.26, -0.4)], strap)
    p.poly([(-0.26, 0.4), (-0.2, 0.95), (0.2, 0.95), (0.26, 0.4)], strap)
    for y in (-0.72, 0.66, 0.8):
        p.dot(0, y, 0.03)
    p.box(0.44, -0.09, 0.6, 0.09, GOLD)
    p.oval(0, 0, 0.5, 0.5, p.pick(GOLD, SILVER))
    p.oval(0, 0, 0.38, 0.38, WHITE)
    for k in range(4):
        a = math.pi * k / 2
        p.ink([(0.28 * math.cos(a), 0.28 * math.sin(a)), (0.34 * math.cos(a), 0.34 * math.sin(a))])
    p.ink([(0.12, -0.2), (0, 0), (0.2, 0.06)], 1.4)


def ring(p: Pen) -> None:
    p.ring(0, 0.3, 0.5, 0.5, 0.17, p.pick(GOLD, SILVER))
    stone = p.pick((110, 200, 240), (230, 80, 110), (90, 200, 130))
    p.poly([(-0.3, -0.76), (0.3, -0.76), (0.48, -0.54), (0, -0.12), (-0.48, -0.54)], stone)
    p.ink([(-0.48, -0.54), (0.48, -0.54)], 0.8)
    p.ink([(-0.16, -0.54), (0, -0.12), (0.16, -0.54)], 0.8)


CLOTHES: dict[str, Drawing] = {
    "Hat": hat,
    "Crown": crown,
    "Shirt": shirt,
    "Pants": pants,
    "Dress": dress,
    "Glove": glove,
    "Glasses": glasses,
    "Watch": watch,
    "Ring": ring,
}
