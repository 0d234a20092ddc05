import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdx.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, bucket_means, loss_chart, round_ticks

FINITE = st.floats(-1e6, 1e6, allow_subnormal=False)


def _points(text: str) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in text.split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_nothing_to_draw() -> None:
    assert loss_chart({}) is None
    assert loss_chart({"00": []}) is None


def test_axes_map_the_data_to_the_corners() -> None:
    chart = loss_chart({"00": [(0, 0.0), (10, 1.0)], "01": [(0, 0.5), (10, 0.5)]})
    assert chart is not None
    assert _points(chart.curves[0].points) == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]
    middle = (HEIGHT - BOTTOM + TOP) / 2
    assert _points(chart.curves[1].points) == [(LEFT, middle), (WIDTH - RIGHT, middle)]
    quarter = (HEIGHT - BOTTOM - TOP) / 4  # means of the styles: 0.25 and 0.75
    assert _points(chart.mean.points) == [(LEFT, middle + quarter), (WIDTH - RIGHT, middle - quarter)]


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=200))
def test_every_curve_stays_inside(points: list[tuple[float, float]]) -> None:
    chart = loss_chart({"00": sorted(points)})
    assert chart is not None
    for x, y in _points(chart.curves[0].points) + _points(chart.mean.points):
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1


@given(st.lists(st.tuples(FINITE, FINITE), max_size=300), st.integers(1, 50))
def test_bucket_means_keep_the_total(points: list[tuple[float, float]], buckets: int) -> None:
    means = bucket_means(points, buckets)
    assert len(means) <= buckets
    if points and len(points) % buckets == 0:  # equal runs: the mean of the means is the mean
        mean = sum(y for _, y in points) / len(points)
        assert sum(y for _, y in means) / len(means) == pytest.approx(mean, abs=1e-6)


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.integers(2, 10))
def test_ticks_are_round_inside_and_about_as_many_as_asked(low: float, length: float, count: int) -> None:
    ticks = round_ticks(low, low + length, count)
    assert len(ticks) <= count + 1
    assert all(low - length * 1e-6 <= t <= low + length * (1 + 1e-6) for t in ticks)
    steps = {f"{b - a:.3e}" for a, b in itertools.pairwise(ticks)}
    assert len(steps) <= 1
    if steps:
        step = float(steps.pop())
        assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5, 10)
