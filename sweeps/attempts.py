"""One job of a trial in its folder: attempts, their failures, and what is to be done after one.

The folder is the write-ahead log; besides the launcher's files it holds `handle.json` and `failures.jsonl`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jdx.disk import FULL
from launcher.base import Handle, JobSpec, Kind, State, Status, job_id
from launcher.folder import JOB, STOP, read_events, read_json, read_result, write_atomic
from sweeps.ledger import Ticket

log = logging.getLogger(__name__)

HANDLE = "handle.json"
FAILURES = "failures.jsonl"

NAN = "nan"  # the objective is no finite number
SETTINGS = "settings"  # the point cannot be run at all
DATA = "data"  # the data set cannot be used
HOPELESS = frozenset({NAN, SETTINGS, DATA, str(Kind.TARGET)})
"""Failures that the same point would run into again."""
LOST, PREEMPTED = "lost", "preempted"
BLAMELESS = frozenset(
    map(str, (Kind.GPU_LOST, Kind.DISK_FULL, Kind.CANCELLED, Kind.REFUSED, PREEMPTED, LOST))
)
"""Failures of the machine, or of those who run it: the job is started again and they are not counted."""
MOST_BLAMELESS = 20
"""Even these end somewhere."""
OOM_RETRIES = 1


@dataclass(frozen=True)
class Failure:
    """Why an attempt gave no value."""

    attempt: int
    kind: str
    message: str

    @property
    def counts(self) -> bool:
        """Whether it is the job's own fault."""
        return self.kind not in BLAMELESS

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass
class Job:
    """One run of a point: the trial itself, or one of its repetitions with another seed."""

    ticket: Ticket
    seed: int | None
    folder: Path
    attempt: int = 0
    spec: JobSpec | None = None  # of the next attempt, where it was made beforehand
    handle: Handle | None = None  # of the attempt that runs
    status: Status | None = None
    outcome: Mapping[str, Any] | None = None  # the result's value, when it ended well
    seconds: float = 0.0  # of all attempts
    gpu_seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    read: int = 0  # bytes of events.jsonl that are known

    @staticmethod
    def load(ticket: Ticket, seed: int | None, folder: Path) -> Job:
        """A job as its folder tells it; a fresh one when there is no folder."""
        job = Job(ticket, seed, folder)
        begun = read_json(folder / JOB)
        if begun is not None:
            job.attempt = int(begun["attempt"])
            job.failures = _read_failures(folder / FAILURES)
            for number in range(job.attempt):
                job._count(read_json(folder / f"result.{number}.json"))
        return job

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.ticket.number}" + ("" if self.seed is None else f" (seed {self.seed})")

    @property
    def begun(self) -> bool:
        """Whether some controller submitted it before."""
        return (self.folder / JOB).exists()

    def last_handle(self) -> Handle:
        """The handle of the current attempt: as `submit` gave it, or from the folder if nobody had time to keep it."""
        kept = read_json(self.folder / HANDLE)
        if kept is not None and kept.get("attempt") == self.attempt:
            return kept
        return {"id": job_id(self.folder, self.attempt), "folder": str(self.folder), "attempt": self.attempt}

    def keep_handle(self, handle: Handle) -> None:
        self.handle = handle
        write_atomic(self.folder / HANDLE, json.dumps(handle))

    def clear(self) -> None:
        """Before a new attempt: an old request to stop is none to the new one."""
        (self.folder / STOP).unlink(missing_ok=True)

    def events(self) -> list[dict[str, Any]]:
        """Events that came since the last call, in order."""
        new, self.read = read_events(self.folder, self.read)
        return new

    def end(self, status: Status) -> Failure | None:
        """Take in how the attempt ended: `outcome` is set, or the failure is returned (and written down)."""
        result = read_result(self.folder, self.attempt)
        self._count(result)
        self.handle, self.status = None, None
        if result is not None and result.get("state") in {"done", "stopped"}:
            value = result.get("value") or {}
            if "failed" not in value:
                self.outcome = value
                return None
            return self._failed(str(value["failed"]["kind"]), str(value["failed"]["message"]))
        if status.state is State.PREEMPTED:
            return self._failed(PREEMPTED, status.reason)
        error = (result or {}).get("error") or {}
        kind = str(status.kind or error.get("kind") or Kind.CRASHED)
        return self._failed(kind, str(error.get("message") or status.reason or f"exit code {status.code}"))

    def lost(self) -> Failure:
        """The attempt is not known to anybody any more: the machine went down with it, or it never began."""
        return self._failed(LOST, "not found after a restart")

    def reject(self, kind: str, message: str) -> Failure:
        """The attempt ended well, but its value is none."""
        self.outcome = None
        return self._failed(kind, message)

    def _failed(self, kind: str, message: str) -> Failure:
        known = [failure for failure in self.failures if failure.attempt == self.attempt]
        if known:
            return known[0]  # written down by a controller that died before it acted
        failure = Failure(
            self.attempt, kind, message.strip().splitlines()[0][:500] if message.strip() else ""
        )
        self.failures.append(failure)
        try:
            _append(self.folder / FAILURES, vars(failure))
        except OSError as error:
            if error.errno not in FULL:
                raise
            # This controller knows it all the same; a later one finds the attempt's result, or that it was lost.
            log.warning("%s: %s; not written down: %s", self.name, failure, error.strerror)
        return failure

    def _count(self, result: Mapping[str, Any] | None) -> None:
        seconds = float((result or {}).get("seconds") or 0.0)
        self.seconds += seconds
        self.gpu_seconds += seconds * max(1, len((result or {}).get("gpus") or ()))

    def may_retry(self, retries: int) -> bool:
        """Whether the last failure leaves room for another attempt."""
        last = self.failures[-1]
        if last.kind in HOPELESS:
            return False
        if not last.counts:
            return sum(not failure.counts for failure in self.failures) <= MOST_BLAMELESS
        if last.kind == Kind.OOM:
            return sum(one.kind == Kind.OOM for one in self.failures) <= min(OOM_RETRIES, retries)
        return sum(failure.counts for failure in self.failures) <= retries


def _append(path: Path, content: Mapping[str, Any]) -> None:
    """One line, whole or cut off at the next start; on the disk when this returns."""
    line = json.dumps(dict(content), ensure_ascii=False).encode() + b"\n"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    size = os.fstat(handle).st_size
    try:
        if os.write(handle, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise
    finally:
        os.close(handle)


def _read_failures(path: Path) -> list[Failure]:
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return [Failure(**json.loads(line)) for line in whole.splitlines()]
