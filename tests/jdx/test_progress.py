"""Progress: bars on a terminal, few plain lines elsewhere, nothing lost between threads."""

import io
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from jdx.progress import NullProgress, Progress, Task, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _advance(task: Task, times: int) -> None:
    for _ in range(times):
        task.advance()


class Clock:
    """Stands in for `time.monotonic`, so that no test waits."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("jdx.progress.time.monotonic", clock)
    return clock


def test_plain_lines_are_few_and_end_with_the_duration(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(stream=stream) as shown, shown.task("train", 1000) as task:
        for step in range(1000):
            clock.now += 0.013
            task.advance(loss=0.123456 + step)
    lines = stream.getvalue().splitlines()
    # 13 s of work: one line each at 5 s and 10 s, and the last one
    assert len(lines) == 3
    assert re.fullmatch(r"\d\d:\d\d:\d\d train: 385/1000 loss=384\.1, 8\.0 s left", lines[0])
    assert lines[2].endswith("train: done, 1000/1000 in 13.0 s")


def test_an_error_is_said_and_raised_on() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyError), Progress(stream=stream) as shown, shown.task("draw", 3) as task:
        task.advance(len(os.environ["JDX_NO_SUCH_VARIABLE"]))
    assert "draw: stopped by KeyError, 0/3" in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["plain", "live"])
def test_threads_lose_no_unit(stream: io.StringIO) -> None:
    with Progress(stream=stream) as shown, shown.task("x", 8000) as task, ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(_advance, task, 1000)
    assert "8000/8000" in stream.getvalue()


def test_bars_on_a_terminal() -> None:
    stream = Terminal()
    with Progress(stream=stream) as shown, shown.task("train [00]", 2) as task:
        task.advance(2, loss=0.25)
    assert "\x1b[" in stream.getvalue()  # drawn and redrawn in place
    assert "train [00]" in stream.getvalue()  # brackets are no markup
    assert "loss=0.25" in stream.getvalue()


def test_bars_count_each_unit_once(clock: Clock) -> None:
    stream = Terminal()
    with Progress(stream=stream) as shown, shown.task("x", 90) as task:
        for _ in range(30):
            clock.now += 0.06  # some calls redraw, some only count
            task.advance(3)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", stream.getvalue())  # without colours and cursor moves
    counts = [int(done) for done in re.findall(r"(\d+)/90\b", text)]
    assert max(counts) == counts[-1] == 90


def test_quiet_is_plain_on_a_terminal_too() -> None:
    stream = Terminal()
    with Progress(stream=stream, quiet=True) as shown, shown.task("train", 1) as task:
        task.advance()
    assert "\x1b[" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_only_one_live_display_per_process() -> None:
    first, second, third = Terminal(), Terminal(), Terminal()
    with Progress(stream=first):
        with Progress(stream=second) as inner, inner.task("inner", 1) as task:
            task.advance()
        assert "\x1b[" not in second.getvalue()
        assert "inner: done" in second.getvalue()
    with Progress(stream=third) as again, again.task("again", 1):  # the display is free again
        pass
    assert "\x1b[" in third.getvalue()


def test_no_live_display_is_left_behind_by_an_error() -> None:
    with pytest.raises(RuntimeError), Progress(stream=Terminal()) as shown, shown.task("x", 1):
        raise RuntimeError
    stream = Terminal()
    with Progress(stream=stream) as shown, shown.task("y", 1):
        pass
    assert "\x1b[" in stream.getvalue()


def test_prints_that_go_to_a_file_still_do(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(stream=Terminal()):
        print("result")
    assert capsys.readouterr().out == "result\n"


def test_null_progress_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with NullProgress() as shown, shown.task("x", 1) as task:
        task.advance(loss=1.0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (59.97, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
