"""What a trial tells a tracker. A tracker mirrors; the truth is the files of the run folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """Who a run is: its name, the study it belongs to, and the config as plain dicts and lists."""

    name: str
    run_dir: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    job_type: str = "trial"
    id: str | None = None  # a name that no other run of the project has; None = the service makes one
    tags: tuple[str, ...] = ()


class Tracker(ABC):
    """Mirror of one run. No method raises for reasons of the service: losing it must not cost the trial.

    Order of calls: `start`, any of `log_losses` and `log_style`, `finish`, `close`. `close` alone ends a run
    that failed; every method may be called after `close` and then does nothing.
    """

    @abstractmethod
    def start(self, run: RunInfo) -> None:
        """Open the run."""

    @abstractmethod
    def log_losses(self, step: int, losses: Mapping[str, float]) -> None:
        """Training losses at `step` (from 1), by style id."""

    @abstractmethod
    def log_style(self, style: str, metrics: Mapping[str, float]) -> None:
        """Scores of one style, as soon as it is scored."""

    @abstractmethod
    def finish(self, *, metrics: Mapping[str, object], run_dir: Path, status: str) -> None:
        """Record the content of `metrics.json` and the pictures; `status` is "finished" or a reason."""

    @abstractmethod
    def close(self) -> None:
        """End the run, within bounded time."""


class NoTracker(Tracker):
    """Tracks nothing and imports nothing; whoever wants to hear of one thing alone overrides that."""

    def start(self, run: RunInfo) -> None:
        return

    def log_losses(self, step: int, losses: Mapping[str, float]) -> None:
        return

    def log_style(self, style: str, metrics: Mapping[str, float]) -> None:
        return

    def finish(self, *, metrics: Mapping[str, object], run_dir: Path, status: str) -> None:
        return

    def close(self) -> None:
        return
