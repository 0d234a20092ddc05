"""When a training writes files: at every step asked for, and at restart points once some work is at stake."""

from __future__ import annotations

import time
from collections.abc import Container
from dataclasses import dataclass, field

RESTART_SECONDS = 60.0
"""No restart point sooner after the last files: those of 15 adapters of rank 32 are 1.6 GB, and a minute of work is
cheaper done again now and then."""


@dataclass
class Stops:
    """The steps of one pack's training after which a snapshot is written, as time passes.

    snapshots: after each of them; restart_points: where nothing was written for RESTART_SECONDS. `due` is asked once
    after every step.
    """

    snapshots: Container[int]
    restart_points: Container[int]
    since: float = field(default_factory=time.monotonic)

    def due(self, step: int, *, busy: bool = False) -> bool:
        """Whether one is written now; busy: the last one still is, and a restart point does not wait for it."""
        now = time.monotonic()
        worth = step in self.restart_points and not busy and now - self.since >= RESTART_SECONDS
        if not (worth or step in self.snapshots):
            return False
        self.since = now
        return True
