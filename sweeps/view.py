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
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from jdx.progress import duration
from launcher.base import Slot
from sweeps.columns import fitting, short_names, short_value

REFRESH_EVERY = 1.0
SUMMARY_EVERY = 60.0
"""Seconds between two updates of the table, or two summary lines where there is none."""
PLACE = 12
"""Characters of a card's name: GPU-8a1b2c3d tells it from the others of a machine."""
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
            self._live.update(table(self.name, progress, self._live.console.width))

    def close(self) -> None:
        self._live.stop()


def table(name: str, progress: Progress, width: int = 80) -> Group:
    """Running trials, places, and the whole in one line; points are broken between settings only."""
    names = short_names(list(dict.fromkeys(key for job in progress.running for key in job.params)))
    told = {
        "trial": [job.name + (f", try {job.attempt + 1}" if job.attempt else "") for job in progress.running],
        "point": [
            " ".join(f"{names[key]}={short_value(value)}" for key, value in job.params.items())
            for job in progress.running
        ],
        "time": [
            "waiting" if job.pending or job.seconds is None else duration(max(0.0, job.seconds))
            for job in progress.running
        ],
        "styles": [str(job.styles or "") for job in progress.running],
        "place": [", ".join(gpu[:PLACE] for gpu in job.gpus) for job in progress.running],
    }
    told = {head: cells for head, cells in told.items() if head not in {"styles", "place"} or any(cells)}
    longest = [max(point.split(), key=len, default="") for point in told["point"]]
    cells = list(zip(*(told | {"point": longest}).values(), strict=True))
    expendable = [head for head in ("styles", "place") if head in told]
    shown, _ = fitting(list(told), cells, width, expendable)
    rows = Table(expand=False)
    for i in shown:
        head = list(told)[i]
        rows.add_column(head, overflow="fold", no_wrap=head != "point")
    for line in zip(*(list(told.values())[i] for i in shown), strict=True):
        rows.add_row(*map(escape, line))
    places = [
        Text(
            f"{slot.name}: {100 * slot.used / (slot.size or 1):.0f} % leased"
            + (f", closed: {slot.closed}" if slot.closed else "")
        )
        for slot in progress.slots()
    ]
    return Group(Text(f"sweep {name}"), rows, *places, Text(progress.line(), style="bold"))


def make_view(name: str, quiet: bool = False) -> View:
    """A live table when stderr is a terminal."""
    return LiveView(name) if sys.stderr.isatty() and not quiet else View(name)
