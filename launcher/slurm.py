"""Jobs in a Slurm cluster, through submitit. The job's folder lies on a file system that all nodes share.

Before sbatch a word of ours goes into the folder (`slurm.json`) and into the job's comment, so a job is found again
even when the controller died between the two, or slurmctld's answer was lost.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from launcher import remote, slurm_queue
from launcher.base import TAKEN, AlreadyRunningError, Handle, JobSpec, Kind, RefusedError, State, Status
from launcher.cluster import CANCELLED, ClusterExecutor, ClusterJob, as_ended, prepare
from launcher.cluster_settings import SlurmSettings
from launcher.slurm_outage import Outage
from launcher.slurm_queue import Queue, Row, SlurmUnreachableError
from launcher.slurm_sbatch import sbatch

log = logging.getLogger(__name__)

ARRAY = 500
"""Jobs per array; Slurm's MaxArraySize is 1001 unless configured otherwise."""
LEAVING = 120.0
"""Seconds that a killed job may be COMPLETING; after UnkillableStepTimeout (60 s) Slurm itself gives its node up."""


@dataclass
class _Job(ClusterJob):
    job: str = ""
    """Slurm's number; empty as long as only the comment is known."""
    ended: float | None = None
    """When Slurm first said that it is over although the folder says nothing."""


class SlurmExecutor(ClusterExecutor[_Job]):
    """submit = sbatch, poll = the folder and squeue, cancel = scancel. Slurm keeps the jobs; we keep nothing alive.

    Its record in a job's folder: token (as in the job's comment), index in its array, count of the array, attempt, job
    (once known), cancelled.
    """

    name = "slurm"
    record = "slurm.json"

    def __init__(self, settings: SlurmSettings):
        """Raises: RefusedError without submitit or Slurm's commands."""
        super().__init__(settings.max_jobs)
        self.settings = settings
        self.queue = Queue(self.settings.poll_seconds)
        self.outage = Outage(60.0 * settings.unreachable_minutes)
        _check_installed()

    def capacity(self, like: JobSpec | None = None) -> int:
        """`max_jobs` less those of ours that are not over; when they start is Slurm's decision."""
        return self._room()

    # -- submitting -------------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec) -> Handle:
        """One sbatch. Raises as the contract says, and RefusedError with Slurm's words when it refuses."""
        return self.submit_many([spec])[0]

    def submit_many(self, specs: Sequence[JobSpec]) -> list[Handle]:
        """Jobs that ask for the same are one array."""
        with self.outage.watch():
            for spec in specs:
                self._make_room(spec)
                prepare(spec)
            groups: dict[tuple[Any, ...], list[JobSpec]] = {}
            for spec in specs:
                groups.setdefault((spec.gpus, spec.cpus, spec.timeout), []).append(spec)
            for group in groups.values():
                for start in range(0, len(group), ARRAY):
                    self._submit(group[start : start + ARRAY])
        return [self._handle(spec.id) for spec in specs]

    def _make_room(self, spec: JobSpec) -> None:
        """Refuse a folder whose job is still queued; what is left in the queue of an attempt that ended is removed."""
        record = self._record(spec.folder)
        if record is None:
            return
        if (
            "job" not in record
            and record["attempt"] == spec.attempt
            and remote.told(spec.folder, spec.attempt)
        ):
            raise AlreadyRunningError(
                f"{spec.folder} was submitted before, by an sbatch whose answer was lost"
            )
        job = _number(record)
        if not job:
            return
        row = self.queue.look([job], now=True).get(job)
        if row is None or row.over:
            return
        told = remote.told(spec.folder, record["attempt"])
        if not (told and told.over) and not record.get("cancelled"):
            raise AlreadyRunningError(f"{spec.folder} is Slurm job {job} already ({row.state.lower()})")
        slurm_queue.cancel([job], "KILL")
        slurm_queue.cancel([job])

    def _submit(self, specs: Sequence[JobSpec]) -> None:
        token = uuid.uuid4().hex
        for index, spec in enumerate(specs):
            self._new_record(spec.folder, token=token, index=index, count=len(specs), attempt=spec.attempt)
        self._written_down(specs, sbatch(self.settings, specs, token))

    def _written_down(self, specs: Sequence[JobSpec], main: str) -> None:
        for index, spec in enumerate(specs):
            job = main if len(specs) == 1 else f"{main}_{index}"
            self._write_record(spec.folder, job=job)
            self._jobs[spec.id] = _Job(spec.folder, spec.attempt, job=job)

    # -- what became of it ------------------------------------------------------------------------------------------

    def _look(self, jobs: Sequence[_Job]) -> None:
        waiting = [job for job in jobs if not self._settled(job, remote.told(job.folder, job.attempt))]
        if not waiting or self.outage.resting:
            return
        try:
            with self.outage.watch():
                numbered = [job for job in waiting if self._identified(job)]
                rows = self.queue.look([job.job for job in numbered])
        except SlurmUnreachableError as error:
            for job in waiting:
                job.status = replace(job.status, reason=str(error))
            return
        for job in numbered:
            self._judge(job, rows.get(job.job))

    @staticmethod
    def _settled(job: _Job, told: Status | None) -> bool:
        """Take the folder's word for an end; for those that a lost place explains too it takes Slurm's word."""
        if told is None or not told.over or (told.kind in TAKEN and not job.cancelled):
            return False
        job.status = as_ended(job, told)
        return True

    def _identified(self, job: _Job) -> bool:
        """Find the number of a job whose submission nobody saw the end of."""
        record = self._record(job.folder) or {}
        job.job = job.job or (_number(record) if record.get("attempt") == job.attempt else "")
        if not job.job:
            job.status = Status(State.LOST, reason=f"{job.folder} was never submitted to Slurm")
        return bool(job.job)

    def _judge(self, job: _Job, row: Row | None) -> None:
        """What the folder and Slurm say together."""
        told = remote.told(job.folder, job.attempt)  # again: it may have ended while we asked
        if self._settled(job, told):
            return
        if row is not None and not row.over:
            job.status, job.ended = _alive(row.status(), told), None
        elif row is not None and not job.cancelled and _not_started_again(job, row):
            words = f"Slurm job {job.job} was sent back into the queue and could not be started again"
            job.status = Status(State.PREEMPTED, reason=f"{words} ({row.state.lower()}, {row.reason})")
        elif told is not None and told.over:
            job.status = _by_both(told, row)
        else:
            self._conclude(job, None if row is None else row.status(), told)

    def _conclude(self, job: _Job, end: Status | None, told: Status | None) -> None:
        """Slurm says it is over, the folder does not: wait for late files, then believe Slurm."""
        if remote.beats(job.folder) and (end is None or told is not None):
            words = "forgotten by Slurm" if end is None else end.reason
            job.status = Status(State.RUNNING, reason=f"{words}, but its heart beats")
            return
        job.ended = job.ended or time.monotonic()
        late = time.monotonic() - job.ended < self.settings.settle_seconds
        if late and not job.cancelled and (end is None or end.kind is not Kind.CANCELLED):
            return
        words = f"Slurm no longer knows job {job.job}, and it left no result"
        job.status = CANCELLED if job.cancelled else end or Status(State.LOST, reason=words)

    def _lives(self, job: _Job) -> bool:
        """As long as Slurm does not answer it counts as alive: the next polls will tell."""
        try:
            with self.outage.watch():
                row = self.queue.look([job.job], now=True).get(job.job) if self._identified(job) else None
        except SlurmUnreachableError:
            return True
        return remote.beats(job.folder) if row is None else not row.over

    def _take_over(self, folder: Path, attempt: int, record: Mapping[str, Any]) -> _Job:
        return _Job(folder, attempt, job=str(record.get("job", "")))

    def _handle(self, name: str) -> Handle:
        return {**super()._handle(name), "job": self._jobs[name].job}

    # -- ending -----------------------------------------------------------------------------------------------------

    def _end(self, jobs: Sequence[_Job], grace: float) -> None:
        """SIGTERM to all processes of the jobs, SIGKILL after `grace`; returns when Slurm has taken the places back."""
        ask = self.outage.insist
        names = [job.job for job in jobs if ask(partial(self._identified, job))]
        rows = ask(lambda: self.queue.look(names, now=True))
        running = [name for name, row in rows.items() if row.status().state is State.RUNNING]
        ask(lambda: slurm_queue.cancel([name for name in rows if name not in running]))
        ask(lambda: slurm_queue.cancel(running, "TERM"))
        if self._still_there(running, grace):
            ask(lambda: slurm_queue.cancel(running, "KILL"))
        ask(lambda: slurm_queue.cancel(list(rows)))
        if left := self._still_there(list(rows), LEAVING):
            log.warning(
                "Slurm's %s still completing %.0f s after the end: a node does not let go; going on without",
                f"jobs {', '.join(left)} are" if len(left) > 1 else f"job {left[0]} is",
                LEAVING,
            )
        for job in jobs:
            if not self._settled(job, remote.told(job.folder, job.attempt)):
                job.status = CANCELLED

    def _still_there(self, jobs: Sequence[str], limit: float) -> list[str]:
        """Wait for the end of jobs; returns those that have not ended after `limit` seconds."""
        deadline = time.monotonic() + limit
        while True:
            rows = self.outage.insist(lambda: self.queue.look(jobs, now=True))
            left = [name for name, row in rows.items() if not row.over]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)


def _check_installed() -> None:
    if importlib.util.find_spec("submitit") is None:
        raise RefusedError("launcher=slurm needs submitit: pip install 'jdx[slurm]'")
    absent = [
        name for name in ("sbatch", "srun", "squeue", "scontrol", "scancel") if shutil.which(name) is None
    ]
    if absent:
        raise RefusedError(
            f"launcher=slurm needs Slurm's commands on PATH; there is no {', '.join(absent)} here. "
            "Start the sweep on a login node of the cluster, or use launcher=gpu_pool"
        )


def _number(record: Mapping[str, Any]) -> str:
    """The Slurm job of a record; by its comment where nobody could write the number down; empty if there is none."""
    if record.get("job"):
        return str(record["job"])
    found = [job for job, comment in slurm_queue.mine().items() if comment == f"jdx:{record['token']}"]
    if not found:
        return ""
    main = found[0].partition("_")[0]
    return main if record["count"] == 1 else f"{main}_{record['index']}"


def _alive(slurm: Status, told: Status | None) -> Status:
    """A job in the queue: its start and cards from the folder, if the folder is as far as Slurm."""
    if slurm.state is State.RUNNING and told is not None and told.state is State.RUNNING:
        return replace(told, reason=slurm.reason)
    if slurm.state is State.PENDING and told is not None:  # it has run before
        words = f"back in the queue ({slurm.reason})" if slurm.reason else "back in the queue"
        return replace(slurm, reason=words)
    return slurm


def _not_started_again(job: _Job, row: Row) -> bool:
    """Whether Slurm ended a requeued job before it was at our worker again: what the folder says is of the time before.

    Slurm does that when a node refuses the job's credential or a prolog fails; it reports an ordinary failure.
    """
    from launcher.slurm_job import last_start

    ended = row.state in {"FAILED", "COMPLETED", "NODE_FAIL"}
    return ended and row.restarts > last_start(job.folder, job.attempt)


def _by_both(told: Status, row: Row | None) -> Status:
    """An end that the worker and Slurm told: only Slurm knows who sent the signal that the worker died of."""
    if row is None or row.state in {"FAILED", "COMPLETED"}:
        return told
    return replace(row.status(), started=told.started, gpus=told.gpus)
