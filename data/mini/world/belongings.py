"""Tools, clothes and other belongings (pen, pencil, knife, brush; ring, watch, ball)."""

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
    p.blob(
        [(-0.06, 0.3), (0.3, -0.1), (0.74, -0.62), (0.94, -0.94), (0.6, -0.84), (0.0, -0.34), (-0.3, 0.06)],
        SILVER,
    )
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
    scallops = [
        (x0 + 0.235 - 0.235 * math.cos(t), -0.13 * math.sin(t))
        for x0 in (0.47, 0.0, -0.47, -0.94)
        for t in (math.pi * 0.75, math.pi * 0.5, math.pi * 0.25)
    ]
    return dome + scallops


def backpack(p: Pen) -> None:
    cloth = p.paint()
    p.ring(0, -0.76, 0.18, 0.14, 0.08, shade(cloth, -0.3))
    for s in (-1, 1):
        p.box(s * 0.68 - 0.14, 0.06, s * 0.68 + 0.14, 0.7, shade(cloth, -0.25), 0.1)
    p.blob(
        [
            (-0.56, 0.84),
            (-0.64, 0.0),
            (-0.5, -0.62),
            (0, -0.78),
            (0.5, -0.62),
            (0.64, 0.0),
            (0.56, 0.84),
            (0, 0.9),
        ],
        cloth,
    )
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


def hat(p: Pen) -> None:
    felt = p.pick(BLACK, BROWN, p.paint())
    p.oval(0, 0.5, 0.95, 0.22, felt)
    p.blob(
        [
            (-0.5, 0.46),
            (-0.52, -0.1),
            (-0.44, -0.58),
            (-0.14, -0.66),
            (0, -0.54),
            (0.14, -0.66),
            (0.44, -0.58),
            (0.52, -0.1),
            (0.5, 0.46),
            (0, 0.54),
        ],
        felt,
    )
    p.poly([(-0.53, 0.12), (0.53, 0.12), (0.52, 0.42), (0, 0.5), (-0.52, 0.42)], p.pick(RED, CREAM, GOLD))


def crown(p: Pen) -> None:
    gold = p.pick(GOLD, YELLOW)
    p.poly(
        [(-0.8, 0.6), (-0.92, -0.5), (-0.44, 0.04), (0, -0.74), (0.44, 0.04), (0.92, -0.5), (0.8, 0.6)], gold
    )
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
    p.poly(
        [
            (-0.36, -0.72),
            (-0.95, -0.34),
            (-0.74, 0.1),
            (-0.5, -0.06),
            (-0.5, 0.82),
            (0.5, 0.82),
            (0.5, -0.06),
            (0.74, 0.1),
            (0.95, -0.34),
            (0.36, -0.72),
        ],
        cloth,
    )
    p.pie(0, -0.72, 0.28, 0.28, 0, 180, shade(cloth, -0.35), centre=False)
    p.box(-0.5, 0.2, 0.5, 0.4, shade(cloth, 0.55))


def pants(p: Pen) -> None:
    cloth = p.pick((70, 100, 160), p.paint())
    p.poly(
        [(-0.52, -0.86), (0.52, -0.86), (0.66, 0.92), (0.18, 0.92), (0, -0.16), (-0.18, 0.92), (-0.66, 0.92)],
        cloth,
    )
    p.box(-0.54, -0.92, 0.54, -0.7, BROWN)
    p.box(-0.1, -0.93, 0.1, -0.69, GOLD)
    p.ink([(0, -0.7), (0, -0.2)])
    for s in (-1, 1):
        p.ink([(s * 0.5, -0.46), (s * 0.3, -0.5), (s * 0.26, -0.7)], 0.8)


def dress(p: Pen) -> None:
    cloth = p.paint()
    for s in (-1, 1):
        p.limb([(s * 0.2, -0.6), (s * 0.17, -0.94)], 0.1, cloth)
    p.blob(
        [(-0.22, -0.02), (-0.82, 0.8), (-0.4, 0.92), (0, 0.84), (0.4, 0.92), (0.82, 0.8), (0.22, -0.02)],
        cloth,
    )
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


def ball(p: Pen) -> None:
    p.oval(0, 0, 0.8, 0.8, WHITE)
    c = [p.pick(RED, p.paint()), p.pick(YELLOW, p.paint()), p.pick(BLUE, p.paint())]
    for k in range(3):
        p.pie(0, 0, 0.8, 0.8, 120 * k + 10, 120 * k + 70, c[k])
    p.oval(0, 0, 0.16, 0.16, WHITE)


def headphones(p: Pen) -> None:
    case = p.pick(BLACK, p.paint())
    arch = [
        (0.66 * math.cos(math.radians(d)), 0.1 + 0.82 * math.sin(math.radians(d)))
        for d in range(180, 361, 20)
    ]
    p.limb(arch, 0.17, case)
    for s in (-1, 1):
        p.box(s * 0.7 - 0.2, 0.04, s * 0.7 + 0.2, 0.76, case, 0.18)
        p.box(s * 0.46 - 0.1, 0.1, s * 0.46 + 0.1, 0.7, shade(case, 0.4), 0.1)


def guitar(p: Pen) -> None:
    wood = p.pick((206, 130, 60), (180, 90, 50), p.paint())
    p.limb([(-0.2, 0.2), (0.8, -0.8)], 0.14, BROWN, smooth=False)
    p.limb([(0.72, -0.72), (0.92, -0.92)], 0.24, BLACK, smooth=False)
    p.blob(
        [
            (-0.86, 0.5),
            (-0.66, 0.16),
            (-0.34, 0.14),
            (-0.2, -0.14),
            (0.06, -0.2),
            (0.2, -0.06),
            (0.14, 0.2),
            (-0.14, 0.34),
            (-0.16, 0.66),
            (-0.5, 0.86),
            (-0.8, 0.8),
        ],
        wood,
    )
    p.oval(-0.2, 0.2, 0.16, 0.16, BLACK)
    p.limb([(-0.64, 0.46), (-0.46, 0.64)], 0.09, BLACK)
    p.ink([(-0.54, 0.54), (0.84, -0.84)], 0.9)


BELONGINGS = {
    "Pencil": pencil, "Pen": pen, "Brush": brush, "Knife": knife, "Fork": fork, "Spoon": spoon,
    "Scissors": scissors, "Key": key, "Umbrella": umbrella, "Backpack": backpack, "Suitcase": suitcase,
    "Hat": hat, "Crown": crown, "Shirt": shirt, "Pants": pants, "Dress": dress, "Glove": glove,
    "Glasses": glasses, "Watch": watch, "Ring": ring, "Ball": ball, "Headphones": headphones, "Guitar": guitar,
}  # fmt: skip
