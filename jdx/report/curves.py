"""Loss curves as inline SVG: no plotting library in the page, none to install."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]

BUCKETS = 40
"""Points of one curve: a diffusion loss is so noisy that only means over many steps can be read."""
WIDTH, HEIGHT = 860, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 34


@dataclass(frozen=True)
class Curve:
    """One polyline: SVG `points`, and the hue that tells it from its neighbours."""

    name: str
    points: str
    hue: int
    last: float


@dataclass(frozen=True)
class Tick:
    """One mark of an axis: where, in SVG units, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """Everything the template draws."""

    curves: tuple[Curve, ...]
    mean: Curve
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def loss_chart(losses: Mapping[str, Points]) -> Chart | None:
    """Chart of the losses by style, and their mean; None when there is nothing to draw."""
    smooth = {style: bucket_means(points, BUCKETS) for style, points in losses.items() if points}
    if not smooth:
        return None
    smooth_mean = bucket_means(_mean_over_styles(losses), BUCKETS)
    every = [point for points in (*smooth.values(), smooth_mean) for point in points]
    x_span = _span([x for x, _ in every])
    y_span = _span([y for _, y in every])

    def curve(name: str, points: Points, index: int) -> Curve:
        text = " ".join(f"{_x(x, x_span):.1f},{_y(y, y_span):.1f}" for x, y in points)
        return Curve(name, text, hue=round(index * 137.508) % 360, last=points[-1][1])  # golden angle

    return Chart(
        curves=tuple(curve(name, points, i) for i, (name, points) in enumerate(smooth.items())),
        mean=curve("mean of all styles", smooth_mean, 0),
        x_ticks=tuple(Tick(_x(v, x_span), f"{v:g}") for v in round_ticks(*x_span, 8)),
        y_ticks=tuple(Tick(_y(v, y_span), f"{v:g}") for v in round_ticks(*y_span, 5)),
    )


def bucket_means(points: Points, buckets: int) -> list[tuple[float, float]]:
    """At most `buckets` points: the means of equal runs of neighbouring ones."""
    size = -(-len(points) // buckets)
    runs = [points[i : i + size] for i in range(0, len(points), size)] if size else []
    return [(sum(x for x, _ in r) / len(r), sum(y for _, y in r) / len(r)) for r in runs]


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _mean_over_styles(losses: Mapping[str, Points]) -> list[tuple[float, float]]:
    by_step: dict[float, list[float]] = {}
    for points in losses.values():
        for step, loss in points:
            by_step.setdefault(step, []).append(loss)
    return [(step, sum(values) / len(values)) for step, values in sorted(by_step.items())]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high == low:  # one point, or a flat curve: still an axis of some length
        return low - max(abs(low), 1.0) * 0.1, high + max(abs(high), 1.0) * 0.1
    return low, high


def _x(value: float, span: tuple[float, float]) -> float:
    return LEFT + (value - span[0]) / (span[1] - span[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, span: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (value - span[0]) / (span[1] - span[0]) * (HEIGHT - TOP - BOTTOM)
