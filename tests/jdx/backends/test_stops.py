"""When files of a training are written."""

from __future__ import annotations

import time

import pytest

from jdx.backends.stops import RESTART_SECONDS, Stops


def test_restart_points_are_written_when_work_is_at_stake(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def ask(step: int, seconds: float, *, busy: bool = False) -> bool:
        now[0] += seconds
        return some.due(step, busy=busy)

    some = Stops(snapshots=(30, 100), restart_points=range(10, 100, 10), since=now[0])
    assert not ask(10, RESTART_SECONDS - 1)
    assert not ask(11, 1)  # no step for it
    assert ask(20, 0)
    assert ask(30, 1)  # was asked for
    assert not ask(40, RESTART_SECONDS - 1)  # the snapshot counts
    assert not ask(50, 2, busy=True)
    assert ask(60, 0)
    assert ask(100, 0, busy=True)
