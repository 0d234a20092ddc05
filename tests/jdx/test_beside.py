"""Work beside the caller's: in order, all done at the end, and no failure lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from jdx.beside import Beside, beside, threads

PATIENCE = 60.0  # seconds after which a test gives up


def fail() -> None:
    raise OSError("disk full")


def test_all_is_done_in_order_when_the_block_has_ended() -> None:
    done: list[int] = []
    with beside(1, "test") as others:
        for number in range(5):
            others.do(partial(done.append, number))
    assert done == [0, 1, 2, 3, 4]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test")]


def test_works_run_beside_each_other_and_the_caller() -> None:
    together = threading.Barrier(3, timeout=PATIENCE)
    with beside(2, "test") as others:
        others.do(together.wait)
        others.do(together.wait)
        together.wait()


def test_only_so_many_wait() -> None:
    """With two ahead the third is given once the first is done."""
    gate = threading.Event()
    done: list[str] = []
    with beside(1, "test", ahead=2) as others:
        others.do(partial(gate.wait, PATIENCE))
        others.do(partial(done.append, "second"))
        threading.Timer(0.05, gate.set).start()
        others.do(partial(done.append, "third"))
        assert gate.is_set()
    assert done == ["second", "third"]


def test_a_failure_is_told_by_the_next_work() -> None:
    def work(others: Beside) -> None:
        others.do(fail)
        while not others._under_way[0].done():
            pass
        others.do(partial(done.append, "never"))

    done: list[str] = []
    with pytest.raises(OSError, match="disk full"), beside(1, "test") as others:
        work(others)
    assert done == []


def test_a_failure_is_told_at_the_end() -> None:
    with pytest.raises(OSError, match="disk full"), beside(1, "test") as others:
        others.do(fail)


def test_no_failure_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    def fail_otherwise() -> None:
        raise OSError("no such folder")

    with pytest.raises(OSError, match="disk full"), beside(1, "test") as others:
        others._under_way.extend(others._pool.submit(work) for work in (fail, fail_otherwise))
    assert "no such folder" in caplog.text


@pytest.mark.parametrize("reason", [MemoryError, KeyboardInterrupt])
def test_the_blocks_own_failure_stands(
    reason: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def work(others: Beside) -> None:
        others.do(fail)
        raise reason()

    with pytest.raises((MemoryError, KeyboardInterrupt)), beside(1, "test") as others:
        work(others)
    assert "disk full" in caplog.text


def test_threads_are_no_more_than_asked_for() -> None:
    assert threads(1) == 1
    assert 1 <= threads(10_000) < 10_000
