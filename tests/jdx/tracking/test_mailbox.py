import logging
import threading

import pytest

from jdx.tracking.mailbox import Mailbox


def test_calls_are_made_in_order_on_one_thread() -> None:
    made: list[tuple[int, str]] = []
    mailbox = Mailbox("service", consequence="so be it")
    for i in range(100):
        mailbox.post(lambda i=i: made.append((i, threading.current_thread().name)))  # type: ignore[misc]
    assert mailbox.close(10)
    assert made == [(i, "service") for i in range(100)]
    assert not mailbox.broken


@pytest.mark.parametrize("quiet", [False, True])
def test_the_first_failure_is_said_and_the_rest_dropped(
    caplog: pytest.LogCaptureFixture, quiet: bool
) -> None:
    made: list[int] = []
    mailbox = Mailbox("service", consequence="nothing is lost", quiet=quiet)
    mailbox.post(lambda: 1 / 0)
    mailbox.post(lambda: [].pop())
    mailbox.post(lambda: made.append(1))
    with caplog.at_level(logging.WARNING):
        assert mailbox.close(10)
    expected = ["service failed (ZeroDivisionError: division by zero); nothing is lost"]
    assert [record.message for record in caplog.records] == ([] if quiet else expected)
    assert made == []
    assert mailbox.broken


def test_a_hanging_call_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    release, made = threading.Event(), list[int]()
    mailbox = Mailbox("service", consequence="nothing is lost")
    mailbox.post(release.wait)
    mailbox.post(lambda: made.append(1))
    assert not mailbox.close(0.05)
    assert "did not answer" in caplog.text
    release.set()
    assert mailbox.close(10)
    assert made == []  # what came after the hanging call is dropped
