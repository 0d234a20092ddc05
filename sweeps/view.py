"""What people see while a sweep runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TextIO

from optuna.trial import FrozenTrial
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jdx.progress import duration
from launcher.base import Slot

REFRESH_EVERY = 1.0
SUMMARY_EVERY = 60.0
"""Seconds between two updates of the table, or two summary lines where there is none."""
TOLD = {"finished", "failed", "stopped", "adopted", "attempt failed", "stopping"}
"""What gets a line; the rest is for those who look closely."""


@dataclass(frozen=True)
class Running:
    """A job at work."""

    name: str
    params: Mapping[str, Any]
    seconds: float | None
    gpus: Sequence[str]
    attempt: int
    styles: int
    pending: bool


@dataclass(frozen=True)
class Progress:
    """Where the sweep is. `slots` and `best` are asked only when they are shown."""

    n_trials: int
    finished: int
    failed: int
    running: Sequence[Running]
    gpu_seconds: float
    mean_seconds: float
    elapsed: float
    slots: Callable[[], list[Slot]]
    best: Callable[[], FrozenTrial | None] | None
    draining: bool

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far."""
        done = self.finished + self.failed
        left = self.n_trials - done
        if not self.mean_seconds or left <= 0:
            return None
        return self.mean_seconds * left / max(1, len(self.running))

    def line(self) -> str:
        """The whole in one line."""
        best = self.best() if self.best is not None else None
        parts = [
            f"{self.finished + self.failed}/{self.n_trials} trials",
            f"{len(self.running)} running",
            f"{self.failed} failed",
            f"best {best.values[0]:.5g} (trial {best.number})" if best is not None else "",
            f"{self.gpu_seconds / 3600:.2f} slot hours",
            f"{duration(self.seconds_left)} left" if self.seconds_left else "",
            "finishing what runs" if self.draining else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass
class View:
    """Plain lines with the time, for logs and pipes."""

    name: str
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    _last: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Before the first line."""

    def say(self, line: str) -> None:
        """One line for people."""
        self.stream.write(f"{datetime.now():%H:%M:%S} {self.name}: {line}\n")
        self.stream.flush()

    def happened(self, what: str, number: int, text: str = "") -> None:
        """A visible step of a trial: asked, submitted, started, reported, attempt failed, finished, ..."""
        if what in TOLD:
            self.say(f"trial {number} {what}" + (f": {text}" if text else ""))

    def refresh(self, progress: Progress) -> None:
        """Called several times a second."""
        if time.monotonic() - self._last > SUMMARY_EVERY:
            self._last = time.monotonic()
            self.say(progress.line())

    def close(self) -> None:
        """The sweep is over."""


class LiveView(View):
    """A table that stays in place, lines above it."""

    def __init__(self, name: str, stream: TextIO | None = None):
        super().__init__(name, stream or sys.stderr)
        self._last = 0.0
        self._live = Live(console=Console(file=self.stream), refresh_per_second=2, transient=True)

    def start(self) -> None:
        self._live.start()

    def say(self, line: str) -> None:
        self._live.console.print(Text(f"{datetime.now():%H:%M:%S} {self.name}: {line}"))

    def refresh(self, progress: Progress) -> None:
        if time.monotonic() - self._last > REFRESH_EVERY:
            self._last = time.monotonic()
            self._live.update(table(self.name, progress))

    def close(self) -> None:
        self._live.stop()


def table(name: str, progress: Progress) -> Group:
    """Running trials, places, and the whole in one line."""
    rows = Table(title=f"sweep {name}", expand=False)
    for head in ("trial", "point", "time", "styles", "place"):
        rows.add_column(head, overflow="fold")
    for job in progress.running:
        shown = "waiting" if job.pending or job.seconds is None else duration(max(0.0, job.seconds))
        attempt = f" (attempt {job.attempt + 1})" if job.attempt else ""
        point = " ".join(f"{key}={_short(value)}" for key, value in job.params.items())
        rows.add_row(job.name + attempt, point, shown, str(job.styles or ""), ", ".join(job.gpus))
    places = [
        Text(
            f"{slot.name}: {100 * slot.used / (slot.size or 1):.0f} % leased"
            + (f", closed: {slot.closed}" if slot.closed else "")
        )
        for slot in progress.slots()
    ]
    return Group(rows, *places, Text(progress.line(), style="bold"))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def make_view(name: str, quiet: bool = False) -> View:
    """A live table when stderr is a terminal."""
    return LiveView(name) if sys.stderr.isatty() and not quiet else View(name)
