"""What a running job says and hears: events out, the request to stop in."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.folder import EVENTS, STOP, read_events


class Channel:
    """A job's end of its folder. Safe to use from several threads; one process at a time (the lease sees to it)."""

    def __init__(self, folder: Path, attempt: int = 0, gpus: tuple[str, ...] = ()):
        self.folder, self.attempt, self.gpus = folder, attempt, gpus
        self._path = folder / EVENTS
        self._lock = threading.Lock()
        self.stopped = False
        """Whether the job has heard that it should stop."""
        self.kept: set[int] = set()
        """Ids of child processes that outlive the job, for this worker's next one; all others are ended with it."""
        _repair(self._path)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events so far, those of earlier attempts too: what need not be done again."""
        return read_events(self.folder)[0]

    def event(self, content: Mapping[str, Any]) -> None:
        """Append one event; it is on the disk when this returns. Raises: TypeError (not JSON), OSError."""
        line = json.dumps(dict(content)).encode() + b"\n"
        with self._lock:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                before = os.fstat(fd).st_size
                try:
                    _write_all(fd, line)
                    os.fsync(fd)
                except OSError:
                    os.ftruncate(
                        fd, before
                    )  # a full disk must not leave half a line for the next event to join
                    raise
            finally:
                os.close(fd)

    def stopping(self) -> bool:
        """Whether the job is asked to end early; look between pieces of work."""
        self.stopped = self.stopped or (self.folder / STOP).exists()
        return self.stopped


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _repair(path: Path) -> None:
    """Cut a last line that a killed writer left without its end."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
