"""The contract between those who have jobs and those who run them.

A job is a folder plus the name of a function. Whoever submits it reads everything from the folder (`launcher.folder`),
so a controller may die, and another one goes on from the same folders.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

Handle = dict[str, Any]
"""What `submit` returns: JSON-able, has at least `id`, `folder` and `attempt`, outlives the controller."""


class State(StrEnum):
    """Where a job is."""

    PENDING = "pending"  # not started yet
    RUNNING = "running"
    EXITED = "exited"  # its process ended, or it left a result
    PREEMPTED = "preempted"  # a scheduler took its place away; it may be submitted again
    LOST = "lost"  # it no longer runs and nobody saw how it ended


class Kind(StrEnum):
    """Why an attempt failed: a decision for the controller (retry, move, give up)."""

    RAISED = "raised"  # the function raised
    OOM = "oom"  # memory of the card or of the machine
    GPU_LOST = "gpu_lost"  # the card is at fault, not the job
    DISK_FULL = "disk_full"
    TIMEOUT = "timeout"  # ran longer than JobSpec.timeout
    HUNG = "hung"  # its heartbeat stopped
    CANCELLED = "cancelled"
    KILLED = "killed"  # by a signal that nobody here sent
    CRASHED = "crashed"  # segmentation fault, abort, exit without a result
    TARGET = "target"  # the function cannot be imported
    REFUSED = "refused"  # another process runs this folder, or a newer attempt exists


TAKEN = frozenset({Kind.CANCELLED, Kind.KILLED, Kind.CRASHED, Kind.REFUSED})
"""What a worker's end looks like when its place is taken away: whether it was, only who did it knows."""


@dataclass(frozen=True)
class JobSpec:
    """One job. Raises: ValueError naming every field that is out of range."""

    folder: Path
    """Exists; everything about the job lies here."""
    target: str
    """`package.module:function`, called as `function(folder, payload, channel)`; returns a JSON-able mapping."""
    payload: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able."""
    attempt: int = 0
    gpus: float = 1.0
    """0 = none (a CPU slot); 0.5 = half a card by memory share; 2 = two cards."""
    cpus: int = 1
    timeout: float | None = None
    """Seconds of running."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables on top of the controller's."""
    name: str = ""
    """For people, scheduler queues, process titles."""

    def __post_init__(self) -> None:
        module, _, function = self.target.partition(":")
        faults = [
            text
            for wrong, text in (
                (not (module and function), f"target = {self.target!r} must be 'package.module:function'"),
                (self.attempt < 0, f"attempt = {self.attempt} must be at least 0"),
                (self.gpus < 0, f"gpus = {self.gpus} must be at least 0"),
                (self.gpus > 1 and self.gpus != int(self.gpus), f"gpus = {self.gpus} above 1 must be whole"),
                (self.cpus < 1, f"cpus = {self.cpus} must be at least 1"),
                (self.timeout is not None and self.timeout <= 0, f"timeout = {self.timeout} must be above 0"),
            )
            if wrong
        ]
        if faults:
            raise ValueError(f"job {self.name or self.folder}: " + "; ".join(faults))

    @property
    def id(self) -> str:
        """Name of this attempt of this job, as in `Handle['id']` and the result of `poll`."""
        return job_id(self.folder, self.attempt)


def job_id(folder: Path | str, attempt: int) -> str:
    """The id of an attempt: two attempts of one folder are two jobs."""
    return f"{Path(folder).absolute()}#{attempt}"


@dataclass(frozen=True)
class Status:
    """Where a job is and why. `kind` is set for every attempt that did not end well."""

    state: State
    code: int | None = None
    """Exit code; negative = signal."""
    reason: str = ""
    started: float | None = None
    """Unix time."""
    gpus: tuple[str, ...] = ()
    kind: Kind | None = None

    @property
    def over(self) -> bool:
        """Nothing more will happen to this attempt."""
        return self.state not in {State.PENDING, State.RUNNING}


@dataclass(frozen=True)
class Slot:
    """A place where jobs run, for people who watch."""

    name: str
    used: float
    """Share of it that is leased, by anybody: 0 to 1 for a card, number of jobs for the CPU."""
    size: float
    jobs: tuple[str, ...] = ()
    """Names of this executor's jobs there."""
    closed: str = ""
    """Why nothing is started there (quarantine, foreign processes); empty when it is open."""


class AlreadyRunningError(RuntimeError):
    """Somebody runs a job in this folder: it is not started twice."""


class UnreachableError(RuntimeError):
    """Whoever runs the jobs does not answer: nothing is known to have started, submit it again in a while.

    The executor has said so to people already, and raises another error when it has waited long enough.
    """


class RefusedError(RuntimeError):
    """Jobs cannot be run there as asked, and waiting changes nothing: no cluster, or one that refuses them."""


class Executor(ABC):
    """Runs jobs somewhere. Called from one thread of one controller; its jobs survive that controller."""

    name: ClassVar[str]

    @abstractmethod
    def capacity(self, like: JobSpec | None = None) -> int:
        """How many jobs like this one (default: one card or slot each) could start at once now."""

    @abstractmethod
    def submit(self, spec: JobSpec) -> Handle:
        """Start a job, or queue it when there is no room.

        Raises: AlreadyRunningError, ValueError; UnreachableError, after which the same job may be submitted again.
        """

    def submit_many(self, specs: Sequence[JobSpec]) -> list[Handle]:
        """Several at once; schedulers make an array of them."""
        return [self.submit(spec) for spec in specs]

    @abstractmethod
    def poll(self, handles: Iterable[Handle]) -> dict[str, Status]:
        """{handle id: status}. Also drives the executor: reaps, enforces timeouts, starts what is queued."""

    @abstractmethod
    def cancel(self, handle: Handle, grace: float = 5.0) -> None:
        """End a job and every process it started; returns when they are gone. An ended job is left alone."""

    def cancel_all(self, handles: Iterable[Handle], grace: float = 5.0) -> None:
        """Cancel several; executors that can let their graces run side by side."""
        for handle in handles:
            self.cancel(handle, grace)

    @abstractmethod
    def adopt(self, handle: Handle) -> bool:
        """Whether a job of an earlier controller is alive or has left its result; else it must be submitted again."""

    def wait(self, seconds: float) -> None:
        """Sleep until something may have happened, at most `seconds`."""
        time.sleep(seconds)

    def slots(self) -> list[Slot]:
        """Where jobs run, as far as this executor can tell."""
        return []

    @abstractmethod
    def close(self, *, kill: bool) -> None:
        """Give everything back. kill=False leaves running jobs alive: they finish into their folders."""
