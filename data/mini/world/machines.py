"""Machines of a house, and a book (television, laptop, phone; radio, camera)."""

# Coordinates: packed rows read better than one point per line.
# fmt: off

from __future__ import annotations

from data.mini.world.pen import (
    BLACK,
    BROWN,
    CREAM,
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


def phone(p: Pen) -> None:
    case = p.pick(BLACK, p.paint())
    p.box(-0.5, -0.94, 0.5, 0.94, case, 0.14)
    p.box(-0.4, -0.74, 0.4, 0.66, (190, 222, 244))
    p.oval(0, 0.8, 0.085, 0.085, SILVER)
    p.ink([(-0.12, -0.84), (0.12, -0.84)])
    for y in (-0.56, -0.2, 0.16):
        for x in (-0.26, 0.0, 0.26):
            p.box(x - 0.09, y - 0.09, x + 0.09, y + 0.09, p.paint(), 0.03)


def laptop(p: Pen) -> None:
    case = p.pick(GREY, SILVER, BLACK)
    p.box(-0.72, -0.72, 0.72, 0.28, case, 0.06)
    p.box(-0.62, -0.62, 0.62, 0.2, p.pick((150, 200, 240), (170, 220, 200)))
    p.poly([(-0.72, 0.3), (0.72, 0.3), (0.96, 0.74), (-0.96, 0.74)], shade(case, 0.2))
    for y in (0.38, 0.46):
        p.ink([(-0.66 - (y - 0.3) * 0.3, y), (0.66 + (y - 0.3) * 0.3, y)], 0.9)
    p.poly([(-0.2, 0.55), (0.2, 0.55), (0.24, 0.68), (-0.24, 0.68)], case)


def television(p: Pen) -> None:
    case = p.pick(BROWN, p.paint())
    for s in (-1, 1):
        p.ink([(0, -0.56), (s * 0.36, -0.95)], 1.2)
        p.limb([(s * 0.44, 0.6), (s * 0.56, 0.92)], 0.1, BLACK)
    p.box(-0.92, -0.56, 0.92, 0.68, case, 0.14)
    p.box(-0.78, -0.42, 0.42, 0.54, (180, 214, 226), 0.16)
    for y in (-0.26, 0.04):
        p.oval(0.66, y, 0.12, 0.12, CREAM)
    for y in (0.28, 0.38, 0.48):
        p.ink([(0.54, y), (0.78, y)], 0.8)


def radio(p: Pen) -> None:
    case = p.pick(RED, p.paint())
    p.ink([(0.6, -0.3), (0.84, -0.95)], 1.3)
    p.limb([(-0.6, -0.3), (-0.5, -0.56), (0.3, -0.56), (0.4, -0.3)], 0.09, GREY)
    p.box(-0.94, -0.34, 0.94, 0.7, case, 0.12)
    for x in (-0.5, 0.5):
        p.oval(x, 0.26, 0.32, 0.32, CREAM)
        p.oval(x, 0.26, 0.16, 0.16, BLACK)
    p.box(-0.76, -0.24, 0.76, -0.1, CREAM)
    p.ink([(0.2, -0.24), (0.2, -0.1)], 1.2)


def camera(p: Pen) -> None:
    case = p.pick(BLACK, (90, 80, 76), p.paint())
    p.box(-0.36, -0.66, 0.24, -0.3, case, 0.06)
    p.box(0.46, -0.56, 0.74, -0.36, RED)
    p.box(-0.94, -0.42, 0.94, 0.64, case, 0.12)
    p.box(-0.94, -0.1, 0.94, 0.36, shade(case, 0.35))
    p.oval(-0.04, 0.12, 0.46, 0.46, SILVER)
    p.oval(-0.04, 0.12, 0.32, 0.32, (60, 80, 120))
    p.oval(-0.14, 0.02, 0.1, 0.1, SKY)
    p.box(0.54, -0.34, 0.8, -0.18, YELLOW)


def book(p: Pen) -> None:
    cover = p.paint()
    p.poly([(-0.96, -0.44), (0, -0.3), (0.96, -0.44), (0.96, 0.58), (0, 0.74), (-0.96, 0.58)], cover)
    for s in (-1, 1):
        p.blob([(0, -0.36), (s * 0.4, -0.56), (s * 0.86, -0.52), (s * 0.86, 0.44), (s * 0.4, 0.42),
            (0, 0.62)], WHITE)
        for y in (-0.3, -0.1, 0.1, 0.28):
            p.ink([(s * 0.2, y), (s * 0.7, y - 0.06)], 0.8)
    p.ink([(0, -0.34), (0, 0.62)], 1.2)


MACHINES: dict[str, Drawing] = {
    "Phone": phone, "Laptop": laptop, "Television": television, "Radio": radio, "Camera": camera,
    "Book": book,
}
