"""What executors of clusters have in common: a record of ours in each job's folder, and the frames of the contract.

The folder is read first, the cluster is asked about what the folder cannot tell. How it is asked is each executor's
own (`_look`, `_take_over`, `_lives`, `_end`).
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from launcher import folder as files
from launcher import remote
from launcher.base import TAKEN, Executor, Handle, JobSpec, Kind, State, Status, job_id


@dataclass
class ClusterJob:
    """What an executor knows of one attempt."""

    folder: Path
    attempt: int
    cancelled: bool = False
    """By us, or by an earlier controller."""
    status: Status = field(default_factory=lambda: Status(State.PENDING))

    @property
    def id(self) -> str:
        """As in `Handle['id']`."""
        return job_id(self.folder, self.attempt)


J = TypeVar("J", bound=ClusterJob)


class ClusterExecutor(Executor, Generic[J]):
    """Jobs that a cluster keeps; they outlive us, and any later controller finds them by their folders."""

    record: ClassVar[str]
    """The file in a job's folder by which it is found in the cluster: attempt, cancelled, and the executor's own."""

    def __init__(self, max_jobs: int):
        self.max_jobs = max_jobs
        self._jobs: dict[str, J] = {}

    @abstractmethod
    def _look(self, jobs: Sequence[J]) -> None:
        """Bring the statuses of jobs that are not over up to date."""

    @abstractmethod
    def _take_over(self, folder: Path, attempt: int, record: Mapping[str, Any]) -> J:
        """A job that another controller submitted."""

    @abstractmethod
    def _lives(self, job: J) -> bool:
        """Whether a job that is taken over and of which the folder says nothing is still in the cluster."""

    @abstractmethod
    def _end(self, jobs: Sequence[J], grace: float) -> None:
        """End jobs that are marked as cancelled, and set their statuses."""

    def _open(self) -> list[J]:
        return [job for job in self._jobs.values() if not job.status.over]

    def _room(self) -> int:
        """Jobs of ours that may still be put into the cluster."""
        return max(0, self.max_jobs - len(self._open()))

    def poll(self, handles: Iterable[Handle]) -> dict[str, Status]:
        """The folder's word first, then the cluster's."""
        known: dict[str, J] = {}
        statuses: dict[str, Status] = {}
        for handle in handles:
            try:
                known[handle["id"]] = self._known(handle)
            except KeyError as error:
                statuses[handle["id"]] = _told(handle) or Status(State.LOST, reason=str(error.args[0]))
        waiting = [job for job in known.values() if not job.status.over]
        if waiting:
            self._look(waiting)
        return statuses | {name: job.status for name, job in known.items()}

    def adopt(self, handle: Handle) -> bool:
        """True for a job that has its result or is in the cluster; the folder alone is handle enough."""
        try:
            job = self._known(handle)
        except KeyError:
            return _told(handle) is not None
        if remote.told(job.folder, job.attempt) is not None or self._lives(job):
            return True
        self._jobs.pop(_name(handle, job), None)
        return False

    def cancel(self, handle: Handle, grace: float = 5.0) -> None:
        """SIGTERM, after `grace` SIGKILL to the whole tree; returns when it is gone."""
        self.cancel_all([handle], grace)

    def cancel_all(self, handles: Iterable[Handle], grace: float = 5.0) -> None:
        """All graces run side by side."""
        handles = list(handles)
        statuses = self.poll(handles)
        jobs = [self._known(handle) for handle in handles if not statuses[handle["id"]].over]
        for job in jobs:
            job.cancelled = True
            self._write_record(job.folder, cancelled=True)
        if jobs:
            self._end(jobs, grace)

    def close(self, *, kill: bool) -> None:
        """kill=False: the cluster keeps the jobs, there is nothing of ours to give back."""
        if kill:
            self.cancel_all(
                [self._handle(name) for name, job in self._jobs.items() if not job.status.over], 1.0
            )
        self._jobs.clear()

    # -- folders ----------------------------------------------------------------------------------------------------

    def _known(self, handle: Handle) -> J:
        """What we know of a handle's attempt. Raises: KeyError when nothing in its folder tells of it."""
        if handle.get("id") in self._jobs:
            return self._jobs[handle["id"]]
        folder = Path(handle["folder"]).absolute()
        record = self._record(folder) or {}
        attempt = handle.get("attempt", record.get("attempt"))
        if not record or record["attempt"] != attempt:
            raise KeyError(
                f"{folder} holds no job of launcher={self.name} of attempt {attempt}: adopt() it or submit it again"
            )
        job = self._take_over(folder, attempt, record)
        job.cancelled = bool(record.get("cancelled"))
        self._jobs[_name(handle, job)] = job
        return job

    def _handle(self, name: str) -> Handle:
        job = self._jobs[name]
        return {"id": name, "folder": str(job.folder.absolute()), "attempt": job.attempt}

    def _record(self, folder: Path) -> dict[str, Any] | None:
        return files.read_json(folder / self.record)

    def _write_record(self, folder: Path, **more: Any) -> None:
        """Add to what the folder says."""
        files.write_atomic(folder / self.record, json.dumps({**(self._record(folder) or {}), **more}) + "\n")

    def _new_record(self, folder: Path, **content: Any) -> None:
        """Replace an earlier attempt's."""
        files.write_atomic(folder / self.record, json.dumps(content) + "\n")


def prepare(spec: JobSpec) -> None:
    """Put a job into its folder. Raises: AlreadyRunningError, ValueError."""
    lease = files.Lease.take(spec.folder)
    try:
        files.write_job(spec)
        remote.forget_exit(spec.folder)
    finally:
        lease.close()


def as_ended(job: ClusterJob, told: Status) -> Status:
    """The folder's word on an end; a job that we cancelled was cancelled, whatever it died of."""
    if job.cancelled and told.kind in TAKEN:
        return replace(told, kind=Kind.CANCELLED, reason="cancelled")
    return told


CANCELLED = Status(State.EXITED, reason="cancelled", kind=Kind.CANCELLED)
"""The end of a job that we cancelled and that told nothing itself."""


def _told(handle: Handle) -> Status | None:
    return remote.told(Path(handle["folder"]), handle.get("attempt", 0))


def _name(handle: Handle, job: ClusterJob) -> str:
    return str(handle.get("id") or job.id)
