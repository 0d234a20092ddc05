"""How long a job's heartbeat has stood still, in time that this process was awake to see."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from launcher.folder import HEARTBEAT

LONGEST_LOOK = 10.0
"""Seconds that one look may add: a controller (or machine) that slept itself must not blame its jobs."""


@dataclass
class Pulse:
    """Feel it often; `still` is the seconds since the heartbeat last moved."""

    still: float = 0.0
    _mtime: int | None = None
    _looked: float | None = None

    def feel(self, folder: Path) -> None:
        """Look at the heartbeat. Clocks are not compared: only whether the file's time changes."""
        try:
            mtime = (folder / HEARTBEAT).stat().st_mtime_ns
        except FileNotFoundError:
            mtime = None
        now = time.monotonic()
        if mtime != self._mtime or self._looked is None:
            self.still = 0.0
        else:
            self.still += min(now - self._looked, LONGEST_LOOK)
        self._mtime, self._looked = mtime, now
