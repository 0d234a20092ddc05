"""Progress on the terminal: one live display per process, plain timestamped lines where there is none."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_EVERY = 5.0
"""Seconds between two plain lines of one task."""
LIVE_EVERY = 0.1
"""Seconds between two updates of the live display: `advance` is called thousands of times."""

_live_display = threading.Lock()
"""Held by the one `Progress` of this process that draws bars; rich refuses a second one."""


class Task(Protocol):
    """A piece of work with a known number of units."""

    def advance(self, n: int = 1, **fields: object) -> None:
        """Count `n` more units done; `fields` (`loss=0.12`) are shown beside the count."""


class Progress(AbstractContextManager["Progress"]):
    """Shows how far each task is; use it as a context manager around all of a program's work.

    Draws bars when `stream` (default: stderr) is a terminal and no other `Progress` of the process does;
    otherwise writes plain lines, one per task in 5 s and a last one with the duration. `quiet=True` asks for
    the plain lines on a terminal too. Safe to use from several threads.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._wants_live = not quiet and self._stream.isatty()
        self._rich: RichProgress | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        if self._wants_live and _live_display.acquire(blocking=False):
            self._rich = _rich_progress(self._stream)
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            rich, self._rich = self._rich, None
            rich.stop()
            _live_display.release()

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        """A task of `total` units, shown until the block ends; an error inside is shown and raised on."""
        if self._rich is not None:
            with _live_task(self._rich, label, total) as task:
                yield task
            return
        plain = _PlainTask(self._say, label, total)
        try:
            yield plain
        except BaseException as error:
            plain.finish(f"stopped by {type(error).__name__}")
            raise
        plain.finish("done")

    def _say(self, line: str) -> None:
        with self._lock:
            self._stream.write(f"{datetime.now():%H:%M:%S} {line}\n")
            self._stream.flush()


class NullProgress(Progress):
    """Shows nothing, for tests and for callers who draw their own."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def _say(self, line: str) -> None:
        return


class _PlainTask:
    def __init__(self, say: _Say, label: str, total: int) -> None:
        self._say, self._label, self._total = say, label, total
        self._done, self._fields = 0, ""
        self._start = self._said = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, n: int = 1, **fields: object) -> None:
        with self._lock:
            self._done += n
            now = time.monotonic()
            if now - self._said < PLAIN_EVERY:
                return
            self._said = now
            line = f"{self._label}: {self._done}/{self._total}{_shown(fields)}{self._left(now)}"
        self._say(line)

    def finish(self, how: str) -> None:
        seconds = time.monotonic() - self._start
        self._say(f"{self._label}: {how}, {self._done}/{self._total} in {duration(seconds)}")

    def _left(self, now: float) -> str:
        if not 0 < self._done < self._total:
            return ""
        return f", {duration((now - self._start) / self._done * (self._total - self._done))} left"


class _LiveTask:
    """Gathers units and hands them to rich a few times per second."""

    def __init__(self, rich: RichProgress, label: str, total: int) -> None:
        self._rich = rich
        self._id = rich.add_task(label, total=total, fields_text="")
        self._pending, self._fields = 0, {}
        self._shown = time.monotonic()
        self._lock = threading.Lock()

    _fields: dict[str, object]

    def advance(self, n: int = 1, **fields: object) -> None:
        with self._lock:
            self._pending += n
            self._fields = fields or self._fields
            if time.monotonic() - self._shown >= LIVE_EVERY:
                self._flush()

    def finish(self) -> None:
        with self._lock:
            self._flush()
            self._rich.stop_task(self._id)

    def _flush(self) -> None:
        self._rich.update(self._id, advance=self._pending, fields_text=_shown(self._fields))
        self._pending, self._shown = 0, time.monotonic()


class _Say(Protocol):
    def __call__(self, line: str) -> None: ...


@contextmanager
def _live_task(rich: RichProgress, label: str, total: int) -> Iterator[Task]:
    task = _LiveTask(rich, label, total)
    try:
        yield task
    finally:
        task.finish()


def _rich_progress(stream: TextIO) -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[fields_text]}", markup=False),
        console=Console(file=stream),
        # lines printed meanwhile go above the bars, but not when they go to a file or a pipe
        redirect_stdout=sys.stdout.isatty(),
    )


def _shown(fields: dict[str, object]) -> str:
    texts = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in fields.items())
    return "".join(f" {text}" for text in texts)


def duration(seconds: float) -> str:
    """Seconds as people say them: `4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes = int(seconds + 0.5) // 60
    if minutes < 60:
        return f"{minutes} min {int(seconds + 0.5) % 60:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
