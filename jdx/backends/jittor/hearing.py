"""What a worker says while it does an order: shown, handed over, logged, or raised."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.faults import DataError
from data.faults import Fault as DataFault
from jdx.errors import BackendError, ConfigError, Fault
from jdx.progress import Progress, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hearing:
    """What is done with what a job says; a job only says what its kind has."""

    on_style: Callable[[str, Path], None] = lambda style, folder: None
    on_snapshot: Callable[[str, int, Path], None] = lambda style, step, folder: None
    on_losses: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None


class Tasks:
    """Shows the tasks that a job tells of, one after the other."""

    def __init__(self, progress: Progress):
        self._progress, self._stack = progress, ExitStack()
        self._task: Task | None = None

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def begin(self, name: str, total: int) -> None:
        """Show a task of `total` units; the one before it ends."""
        self._stack.close()
        self._task = self._stack.enter_context(self._progress.task(name, total))

    def advance(self, n: int, fields: Mapping[str, Any]) -> None:
        """Count n more units of the task that is shown."""
        if self._task is not None:
            self._task.advance(n, **fields)


def hear(said: Mapping[str, Any], tasks: Tasks, hearing: Hearing) -> None:
    """Do with one line what its kind asks for. Raises: BackendError for an unknown kind, and what a listener raises."""
    match said["say"]:
        case "task":
            tasks.begin(said["name"], said["total"])
        case "advance":
            tasks.advance(said["n"], said["fields"])
        case "style":
            hearing.on_style(said["style"], Path(said["folder"]))
        case "snapshot":
            hearing.on_snapshot(said["style"], said["step"], Path(said["folder"]))
        case "losses":
            hearing.on_losses(said["step"], said["losses"])
        case "log":
            log.log(logging.WARNING if said["level"] == "warning" else logging.INFO, "%s", said["text"])
        case _:
            raise BackendError(f"the Jittor worker said something unknown: {dict(said)}")


def error_of(said: Mapping[str, Any]) -> Exception:
    """The exception that a job's error becomes here."""
    if said["kind"] == "config":
        return ConfigError([Fault(*fault) for fault in said["faults"]], said["what"])
    if said["kind"] == "data":
        return DataError(DataFault(Path(path), what, remedy) for path, what, remedy in said["faults"])
    if said["kind"] == "backend":
        return BackendError(said["message"])
    if said["kind"] == "disk":
        return OSError(said["errno"], said["message"], said["file"])
    return BackendError(f"the Jittor worker failed: {said['message']}\n{said['trace']}")
