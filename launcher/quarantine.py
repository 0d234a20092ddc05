"""Cards that failed: nothing is started there until a probe in a process of its own succeeds."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from launcher import processes
from launcher.places import Place, Places

log = logging.getLogger(__name__)

PROBE_LIMIT = 60.0
"""Seconds that a probe may take: one on a dead card can hang in the driver."""


@dataclass
class _Probe:
    process: subprocess.Popen[str]
    start: float = field(default_factory=time.monotonic)


class Ward:
    """Probes the quarantined places of a machine now and then; never waits for a probe."""

    command: Sequence[str] = (sys.executable, "-m", "launcher.probe")

    def __init__(self, places: Places, every: float):
        self._places, self._every = places, every
        self._probes: dict[str, _Probe] = {}
        self._next: dict[str, float] = {}

    def drive(self, places: Iterable[Place]) -> None:
        """Start the probes that are due, take the outcome of those that have ended."""
        for place in places:
            probe = self._probes.get(place.id)
            if probe is not None:
                self._look(place, probe)
            elif not self._places.quarantined(place):
                self._next.pop(place.id, None)
            elif time.monotonic() >= self._next.get(place.id, 0.0):
                self._probes[place.id] = self._begin(place)

    def _begin(self, place: Place) -> _Probe:
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": place.id, "PYTHONPATH": os.pathsep.join(sys.path)}
        return _Probe(
            subprocess.Popen(
                self.command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )

    def _look(self, place: Place, probe: _Probe) -> None:
        code = probe.process.poll()
        if code is None and time.monotonic() - probe.start < PROBE_LIMIT:
            return
        del self._probes[place.id]
        self._next[place.id] = time.monotonic() + self._every
        if code is None:
            processes.kill_tree(probe.process.pid, None, "", patience=1.0)
            words = f"a probe did not end within {PROBE_LIMIT:g} s"
        elif code == 0:
            log.warning("%s works again", place.id)
            self._places.reopen(place)
            return
        else:
            words = (probe.process.stderr.read() if probe.process.stderr else "").strip() or f"code {code}"
        log.warning("%s still fails: %s", place.id, words)

    def close(self) -> None:
        """Leave no probe behind."""
        for probe in self._probes.values():
            processes.kill_tree(probe.process.pid, None, "", patience=1.0)
        self._probes.clear()
