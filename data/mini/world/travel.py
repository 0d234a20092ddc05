"""Vehicles (car, bus, train; boat, ship; bicycle, scooter, skateboard)."""

# Coordinates: packed rows read better than one point per line.
# fmt: off

from __future__ import annotations

from data.mini.world.pen import (
    BLACK,
    BLUE,
    BROWN,
    CREAM,
    DARK_GREEN,
    GLASS,
    NAVY,
    ORANGE,
    RED,
    SILVER,
    SKY,
    TAN,
    WHITE,
    YELLOW,
    Drawing,
    Pen,
    shade,
)


def _wheel(p: Pen, x: float, y: float, r: float) -> None:
    p.oval(x, y, r, r, BLACK)
    p.oval(x, y, r * 0.5, r * 0.5, SILVER)


def car(p: Pen) -> None:
    paint = p.paint()
    p.blob([(-0.56, 0.02), (-0.36, -0.46), (0.24, -0.48), (0.56, 0.0)], paint)
    p.poly([(-0.44, -0.04), (-0.28, -0.36), (-0.06, -0.36), (-0.06, -0.04)], GLASS)
    p.poly([(0.04, -0.04), (0.04, -0.36), (0.2, -0.36), (0.42, -0.04)], GLASS)
    p.box(-0.95, -0.06, 0.95, 0.44, paint, 0.16)
    p.oval(0.86, 0.1, 0.09, 0.1, YELLOW)
    p.ink([(0, 0.0), (0, 0.36)], 0.8)
    for x in (-0.52, 0.52):
        _wheel(p, x, 0.44, 0.25)


def bus(p: Pen) -> None:
    paint = p.pick(YELLOW, RED, p.paint())
    p.box(-0.95, -0.62, 0.95, 0.52, paint, 0.12)
    for x in (-0.84, -0.48, -0.12):
        p.box(x, -0.46, x + 0.28, -0.06, GLASS)
    p.box(0.26, -0.46, 0.5, 0.46, GLASS)
    p.box(0.62, -0.46, 0.93, -0.02, GLASS)
    p.box(-0.95, 0.12, 0.22, 0.2, WHITE)
    for x in (-0.56, 0.6):
        _wheel(p, x, 0.54, 0.22)


def train(p: Pen) -> None:
    paint = p.pick(RED, DARK_GREEN, p.paint())
    for x, y, r in ((0.36, -0.76, 0.17), (0.1, -0.86, 0.13)):
        p.oval(x, y, r, r * 0.8, SILVER)
    p.poly([(0.42, -0.16), (0.38, -0.56), (0.74, -0.56), (0.7, -0.16)], BLACK)
    p.box(-0.9, -0.6, -0.24, 0.44, paint)
    p.box(-0.98, -0.74, -0.16, -0.58, BLACK)
    p.box(-0.76, -0.44, -0.38, -0.08, GLASS)
    p.box(-0.26, -0.18, 0.88, 0.44, shade(paint, -0.2), 0.1)
    for x in (0.0, 0.3):
        p.ink([(x, -0.18), (x, 0.4)])
    p.poly([(0.7, 0.34), (0.98, 0.74), (0.7, 0.74)], BLACK)
    for x, r in ((-0.6, 0.25), (-0.06, 0.2), (0.42, 0.2)):
        _wheel(p, x, 0.8 - r, r)
    p.limb([(-0.95, 0.86), (0.95, 0.86)], 0.08, BROWN)


def bicycle(p: Pen) -> None:
    frame = p.paint()
    for x in (-0.54, 0.54):
        p.ring(x, 0.32, 0.38, 0.38, 0.09, BLACK)
        p.dot(x, 0.32, 0.05)
    for a, b in (
        ((-0.54, 0.32), (-0.2, -0.24)),
        ((-0.2, -0.24), (0.36, -0.28)),
        ((0.36, -0.28), (0.0, 0.32)),
        ((0.0, 0.32), (-0.54, 0.32)),
        ((-0.26, -0.36), (0.0, 0.32)),
        ((0.34, -0.5), (0.54, 0.32)),
    ):
        p.limb([a, b], 0.085, frame)
    p.blob([(-0.48, -0.42), (-0.28, -0.48), (-0.06, -0.42), (-0.28, -0.34)], BROWN)
    p.limb([(0.34, -0.5), (0.3, -0.62), (0.56, -0.66)], 0.08, BLACK, smooth=False)


def scooter(p: Pen) -> None:
    paint = p.paint()
    p.limb([(-0.6, 0.56), (0.4, 0.56)], 0.15, paint)
    p.limb([(0.62, 0.66), (0.34, -0.8)], 0.12, paint, smooth=False)
    p.limb([(0.06, -0.72), (0.62, -0.86)], 0.12, BLACK)
    for x in (-0.62, 0.64):
        _wheel(p, x, 0.7, 0.22)


def skateboard(p: Pen) -> None:
    paint = p.paint()
    for x in (-0.5, 0.5):
        p.box(x - 0.1, 0.1, x + 0.1, 0.3, SILVER)
        _wheel(p, x, 0.42, 0.2)
    p.limb([(-0.94, -0.22), (-0.66, 0.06), (0.0, 0.08), (0.66, 0.06), (0.94, -0.22)], 0.17, paint)


def plane(p: Pen) -> None:
    paint = p.pick(WHITE, p.paint())
    p.poly([(-0.06, -0.1), (-0.36, -0.74), (-0.16, -0.74), (0.36, -0.12)], shade(paint, -0.25))
    p.poly([(-0.76, -0.04), (-0.95, -0.54), (-0.72, -0.54), (-0.46, -0.1)], p.pick(RED, BLUE))
    p.blob([(-0.95, -0.1), (-0.4, -0.16), (0.5, -0.2), (0.86, -0.06), (0.95, 0.06), (0.7, 0.18), (-0.3, 0.16),
        (-0.8, 0.06)], paint)
    for x in (-0.4, -0.2, 0.0, 0.2, 0.4):
        p.oval(x, -0.04, 0.055, 0.06, BLUE)
    p.poly([(0.62, -0.14), (0.8, -0.08), (0.78, 0.0), (0.6, 0.0)], GLASS)
    p.poly([(0.2, 0.08), (-0.4, 0.76), (-0.14, 0.76), (0.5, 0.1)], shade(paint, -0.15))


def rocket(p: Pen) -> None:
    body, fin = p.pick(WHITE, SILVER), p.pick(RED, p.paint())
    p.blob([(-0.2, 0.56), (0.2, 0.56), (0.12, 0.76), (0, 0.98), (-0.12, 0.76)], (252, 160, 40))
    for s in (-1, 1):
        p.poly([(s * 0.24, 0.08), (s * 0.62, 0.52), (s * 0.58, 0.76), (s * 0.22, 0.5)], fin)
    p.blob([(0, -0.96), (0.26, -0.58), (0.34, -0.1), (0.26, 0.5), (0, 0.58), (-0.26, 0.5), (-0.34, -0.1),
        (-0.26, -0.58)], body)
    p.blob([(0, -0.96), (0.16, -0.78), (0.24, -0.56), (0, -0.5), (-0.24, -0.56), (-0.16, -0.78)], fin)
    p.oval(0, -0.18, 0.18, 0.18, NAVY)
    p.oval(0, -0.18, 0.11, 0.11, SKY)


def boat(p: Pen) -> None:
    hull, sail = p.pick(BROWN, p.paint()), p.pick(WHITE, CREAM, p.paint())
    p.box(-0.05, -0.92, 0.05, 0.36, BROWN)
    p.poly([(0.1, -0.9), (0.76, 0.2), (0.1, 0.2)], sail)
    p.poly([(-0.1, -0.7), (-0.1, 0.2), (-0.58, 0.2)], shade(sail, -0.12))
    p.poly([(-0.86, 0.32), (0.9, 0.32), (0.56, 0.74), (-0.56, 0.74)], hull)
    for x in (-0.6, 0.0, 0.6):
        p.limb([(x - 0.3, 0.86), (x - 0.1, 0.76), (x + 0.1, 0.86), (x + 0.3, 0.76)], 0.08, BLUE)


def ship(p: Pen) -> None:
    hull, funnel = p.pick(BLACK, NAVY, p.paint()), p.pick(RED, ORANGE)
    for x in (-0.3, 0.04, 0.38):
        p.box(x - 0.1, -0.8, x + 0.1, -0.3, funnel)
        p.box(x - 0.1, -0.8, x + 0.1, -0.68, BLACK)
    p.box(-0.54, -0.34, 0.62, -0.06, WHITE)
    p.box(-0.7, -0.08, 0.72, 0.2, WHITE)
    for k in range(6):
        p.dot(-0.56 + 0.23 * k, 0.06, 0.045)
    p.poly([(-0.95, 0.16), (0.98, 0.16), (0.72, 0.68), (-0.74, 0.68)], hull)
    p.box(-0.78, 0.54, 0.76, 0.68, RED)
    for x in (-0.62, 0.0, 0.62):
        p.limb([(x - 0.32, 0.84), (x - 0.1, 0.74), (x + 0.1, 0.84), (x + 0.32, 0.74)], 0.08, BLUE)


def balloon(p: Pen) -> None:
    a, b = p.paint(), p.pick(WHITE, YELLOW, p.paint())
    for s in (-1, 1):
        p.ink([(s * 0.34, 0.24), (s * 0.16, 0.68)])
    p.blob([(0, -0.95), (0.5, -0.78), (0.7, -0.34), (0.5, 0.1), (0.18, 0.42), (-0.18, 0.42), (-0.5, 0.1),
        (-0.7, -0.34), (-0.5, -0.78)], a)
    p.blob([(0, -0.95), (0.24, -0.7), (0.32, -0.34), (0.24, 0.1), (0.1, 0.42), (-0.1, 0.42), (-0.24, 0.1),
        (-0.32, -0.34), (-0.24, -0.7)], b)
    p.box(-0.2, 0.64, 0.2, 0.94, TAN, 0.05)


TRAVEL: dict[str, Drawing] = {
    "Car": car,
    "Bus": bus,
    "Train": train,
    "Bicycle": bicycle,
    "Scooter": scooter,
    "Skateboard": skateboard,
    "Plane": plane,
    "Rocket": rocket,
    "Boat": boat,
    "Ship": ship,
    "Balloon": balloon,
}
