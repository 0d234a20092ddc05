"""Jobs in a Slurm cluster, through submitit. The job's folder lies on a file system that all nodes share.

Before sbatch a word of ours goes into the folder (`slurm.json`) and into the job's comment, so a job is found again
even when the controller died between the two.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launcher import folder as files
from launcher import remote, slurm_queue
from launcher.base import AlreadyRunningError, Executor, Handle, JobSpec, Kind, State, Status, job_id
from launcher.cluster_settings import SlurmSettings
from launcher.slurm_queue import Queue, SlurmUnreachableError

RECORD = "slurm.json"
"""token, index in its array, count of the array, attempt, job (once known), cancelled."""
ARRAY = 500
"""Jobs per array; Slurm's MaxArraySize is 1001 unless configured otherwise."""
RETRIES = 14
"""How often sbatch is tried while slurmctld does not answer, with 2, 4, 8 ... 60 s between: ten minutes."""


@dataclass
class _Job:
    """What this executor knows of one attempt."""

    folder: Path
    attempt: int
    job: str
    cancelled: bool = False
    status: Status = field(default_factory=lambda: Status(State.PENDING))
    ended: float | None = None
    """When Slurm first said that it is over although the folder says nothing."""


class SlurmExecutor(Executor):
    """submit = sbatch, poll = the folder and squeue, cancel = scancel. Slurm keeps the jobs; we keep nothing alive."""

    name = "slurm"

    def __init__(self, settings: SlurmSettings):
        """Raises: ImportError without submitit, RuntimeError without Slurm's commands."""
        self.settings = settings
        self.queue = Queue(self.settings.poll_seconds)
        self._jobs: dict[str, _Job] = {}
        _check_installed()

    def capacity(self, like: JobSpec | None = None) -> int:
        """`max_jobs` less those of ours that are not over; when they start is Slurm's decision."""
        return max(0, self.settings.max_jobs - sum(not job.status.over for job in self._jobs.values()))

    # -- submitting -------------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec) -> Handle:
        """One sbatch. Raises as the contract says, and RuntimeError with Slurm's words when it refuses."""
        return self.submit_many([spec])[0]

    def submit_many(self, specs: Sequence[JobSpec]) -> list[Handle]:
        """Jobs that ask for the same are one array."""
        for spec in specs:
            self._make_room(spec)
            _prepare(spec)
        groups: dict[tuple[Any, ...], list[JobSpec]] = {}
        for spec in specs:
            groups.setdefault((spec.gpus, spec.cpus, spec.timeout), []).append(spec)
        for group in groups.values():
            for start in range(0, len(group), ARRAY):
                self._submit(group[start : start + ARRAY])
        return [self._handle(spec.id) for spec in specs]

    def _make_room(self, spec: JobSpec) -> None:
        """Refuse a folder whose job is still queued; what is left in the queue of an attempt that ended is removed."""
        record = _record(spec.folder)
        job = self._find(record) if record else None
        if record is None or job is None:
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
            record = {"token": token, "index": index, "count": len(specs), "attempt": spec.attempt}
            _write_record(spec.folder, record)
        self._written_down(specs, self._sbatch(specs, token))

    def _written_down(self, specs: Sequence[JobSpec], main: str) -> None:
        for index, spec in enumerate(specs):
            job = main if len(specs) == 1 else f"{main}_{index}"
            _write_record(spec.folder, _record(spec.folder) or {}, job=job)
            self._jobs[spec.id] = _Job(spec.folder, spec.attempt, job)

    def _sbatch(self, specs: Sequence[JobSpec], token: str) -> str:
        """Hand one array over; returns its job id. An answer that got lost is looked up before it is tried again."""
        for trial in range(RETRIES + 1):
            try:
                return self._sbatch_once(specs, token)
            except SlurmUnreachableError:
                if trial == RETRIES:
                    raise
                time.sleep(min(60.0, 2.0 * 2**trial))
                found = _by_comment(token)
                if found is not None:
                    return found
        raise AssertionError("unreachable")

    def _sbatch_once(self, specs: Sequence[JobSpec], token: str) -> str:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from launcher.slurm_job import SlurmAttempt

        logs = (
            Path(self.settings.logs) if self.settings.logs else specs[0].folder.absolute().parent / ".slurm"
        )
        executor = submitit.SlurmExecutor(logs.absolute(), max_num_timeout=self.settings.requeues)
        executor.update_parameters(**self._parameters(specs[0], token))
        with executor.batch():
            jobs = [
                executor.submit(
                    SlurmAttempt(spec.folder.absolute(), spec.attempt, self.settings.grace_seconds)
                )
                for spec in specs
            ]
        try:
            return str(jobs[0].job_id).partition("_")[0]
        except (FailedJobError, FailedSubmissionError) as error:
            raise RuntimeError(str(error)) from error

    def _parameters(self, spec: JobSpec, token: str) -> dict[str, Any]:
        """Parameters of submitit for jobs like this one."""
        asked = self.settings
        # One spelling, so that they replace the settings' lines instead of standing beside them.
        options = {name.lstrip("-").replace("-", "_"): value for name, value in asked.options.items()}
        wanted: dict[str, Any] = {
            "job_name": f"jdx-{spec.name or spec.folder.name}",
            "comment": f"jdx:{token}",
            "time": self._minutes(spec),
            "partition": asked.partition,
            "account": asked.account,
            "qos": asked.qos,
            "constraint": asked.constraint,
            "mem": None if asked.mem_gb is None else f"{math.ceil(asked.mem_gb * 1024)}M",
            "cpus_per_task": spec.cpus,
            "setup": list(asked.setup) or None,
            "array_parallelism": asked.array_parallelism,
            "signal_delay_s": asked.signal_seconds,
            "nodes": 1,
            "ntasks_per_node": 1,
            # Since 22.05 srun no longer takes the cores over from sbatch; and told fewer than the job has, it starts
            # the job several times.
            "srun_args": ["--ntasks=1", f"--cpus-per-task={options.get('cpus_per_task', spec.cpus)}"],
            "additional_parameters": {"requeue": True} | options,
        }
        return {key: value for key, value in (wanted | self._cards(spec)).items() if value is not None}

    def _cards(self, spec: JobSpec) -> dict[str, Any]:
        if spec.gpus == 0:
            return {}
        if self.settings.gres is not None:
            return {"gres": self.settings.gres.format(gpus=f"{spec.gpus:g}")}
        if spec.gpus != int(spec.gpus):
            raise ValueError(
                f"gpus = {spec.gpus:g}: Slurm gives whole cards; ask for 1, or where the cluster shares cards "
                "set launcher.gres, as in launcher.gres=shard:4"
            )
        return {"gpus_per_node": int(spec.gpus)}

    def _minutes(self, spec: JobSpec) -> int:
        if spec.timeout is None:
            return self.settings.time_min
        needed = math.ceil((spec.timeout + self.settings.signal_seconds) / 60) + 1
        return min(self.settings.time_min, needed)

    # -- what became of it ------------------------------------------------------------------------------------------

    def poll(self, handles: Iterable[Handle]) -> dict[str, Status]:
        """The folder's word first; Slurm is asked about those jobs of which the folder does not say that they ended."""
        known, statuses = {}, {}
        for handle in handles:
            try:
                known[handle["id"]] = self._known(handle)
            except KeyError as error:
                told = remote.told(Path(handle["folder"]), handle.get("attempt", 0))
                statuses[handle["id"]] = told or Status(State.LOST, reason=str(error.args[0]))
        open_jobs = {}
        for job in known.values():
            if not job.status.over and not self._settled(job, remote.told(job.folder, job.attempt)):
                open_jobs[job.job] = job
        if open_jobs:
            self._ask(open_jobs)
        return statuses | {name: job.status for name, job in known.items()}

    @staticmethod
    def _settled(job: _Job, told: Status | None) -> bool:
        """Take the folder's word for an end. SIGTERM may be a preemption: whether it was is Slurm's to say."""
        if told is None or not told.over or (told.kind is Kind.CANCELLED and not job.cancelled):
            return False
        killed_by_us = job.cancelled and told.kind is Kind.KILLED
        job.status = replace(told, kind=Kind.CANCELLED) if killed_by_us else told
        return True

    def _ask(self, jobs: Mapping[str, _Job]) -> None:
        try:
            rows = self.queue.look(jobs)
        except SlurmUnreachableError as error:
            for job in jobs.values():
                job.status = replace(job.status, reason=str(error))
            return
        for name, job in jobs.items():
            row = rows.get(name)
            told = remote.told(job.folder, job.attempt)  # again: it may have ended while we asked
            if row is not None and not row.over:
                if not self._settled(job, told):
                    job.status, job.ended = _alive(row.status(), told), None
            elif told is not None and told.over:
                job.status = told
            else:
                self._conclude(job, None if row is None else row.status())

    def _conclude(self, job: _Job, end: Status | None) -> None:
        """Slurm says it is over, the folder says nothing: wait for late files, then believe Slurm."""
        if end is None and remote.beats(job.folder):
            job.status = Status(State.RUNNING, reason="forgotten by Slurm, but its heart beats")
            return
        job.ended = job.ended or time.monotonic()
        late = time.monotonic() - job.ended < self.settings.settle_seconds
        if late and not job.cancelled and (end is None or end.kind is not Kind.CANCELLED):
            return
        words = f"Slurm no longer knows job {job.job}, and it left no result"
        job.status = end or Status(State.LOST, reason=words)
        if job.cancelled:
            job.status = Status(State.EXITED, reason="cancelled", kind=Kind.CANCELLED)

    def adopt(self, handle: Handle) -> bool:
        """True for a job that has its result, or that Slurm has in its queue; the folder alone is handle enough."""
        try:
            job = self._known(handle)
        except KeyError:
            return remote.told(Path(handle["folder"]), handle.get("attempt", 0)) is not None
        told = remote.told(job.folder, job.attempt)
        if told is not None:
            return True
        row = self.queue.look([job.job], now=True).get(job.job)
        alive = remote.beats(job.folder) if row is None else not row.over
        if not alive:
            self._jobs.pop(handle.get("id", ""), None)
        return alive

    # -- ending -----------------------------------------------------------------------------------------------------

    def cancel(self, handle: Handle, grace: float = 5.0) -> None:
        """SIGTERM to all its processes, SIGKILL after `grace`; returns when Slurm has taken its place back."""
        self.cancel_all([handle], grace)

    def cancel_all(self, handles: Iterable[Handle], grace: float = 5.0) -> None:
        """One scancel for all."""
        handles = list(handles)
        statuses = self.poll(handles)
        jobs = {
            self._known(handle).job: self._known(handle)
            for handle in handles
            if not statuses[handle["id"]].over
        }
        for job in jobs.values():
            job.cancelled = True
            _write_record(job.folder, _record(job.folder) or {}, cancelled=True)
        rows = self.queue.look(jobs, now=True)
        running = [name for name, row in rows.items() if row.state in slurm_queue.RUNNING]
        slurm_queue.cancel([name for name in rows if name not in running])
        slurm_queue.cancel(running, "TERM")
        if not self._until_over(running, grace):
            slurm_queue.cancel(running, "KILL")
        slurm_queue.cancel(list(rows))
        self._until_over(list(rows), float("inf"))
        for job in jobs.values():
            if not self._settled(job, remote.told(job.folder, job.attempt)):
                job.status = Status(State.EXITED, reason="cancelled", kind=Kind.CANCELLED)

    def _until_over(self, jobs: Sequence[str], limit: float) -> bool:
        deadline = time.monotonic() + limit
        while True:
            rows = self.queue.look(jobs, now=True)
            if all(row.over for row in rows.values()):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)

    def close(self, *, kill: bool) -> None:
        """kill=False: Slurm keeps the jobs, there is nothing of ours to give back."""
        if kill:
            alive = [self._handle(name) for name, job in self._jobs.items() if not job.status.over]
            self.cancel_all(alive, grace=1.0)
        self._jobs.clear()

    # -- which job is it --------------------------------------------------------------------------------------------

    def _handle(self, name: str) -> Handle:
        job = self._jobs[name]
        return {"id": name, "folder": str(job.folder.absolute()), "attempt": job.attempt, "job": job.job}

    def _known(self, handle: Handle) -> _Job:
        """What we know of a handle's attempt. Raises: KeyError when nothing in its folder tells of it."""
        folder = Path(handle["folder"])
        record = None
        if handle.get("id") not in self._jobs:
            record = _record(folder)
            attempt = handle.get("attempt", (record or {}).get("attempt"))
            if record is None or record["attempt"] != attempt:
                raise KeyError(
                    f"{folder} holds no Slurm job of attempt {attempt}: adopt() it or submit it again"
                )
            job = self._find(record)
            if job is None:
                raise KeyError(f"{folder} was never submitted to Slurm")
            name = handle.get("id") or job_id(folder, attempt)
            self._jobs[name] = _Job(folder, attempt, job, bool(record.get("cancelled")))
            return self._jobs[name]
        return self._jobs[handle["id"]]

    @staticmethod
    def _find(record: Mapping[str, Any]) -> str | None:
        """The Slurm job of a record; by its comment where the controller died before it could write the id down."""
        if record.get("job"):
            return str(record["job"])
        main = _by_comment(record["token"])
        if main is None:
            return None
        return main if record["count"] == 1 else f"{main}_{record['index']}"


def _check_installed() -> None:
    if importlib.util.find_spec("submitit") is None:
        raise ImportError("launcher=slurm needs submitit: pip install 'jdx[slurm]'")
    absent = [
        name for name in ("sbatch", "srun", "squeue", "scontrol", "scancel") if shutil.which(name) is None
    ]
    if absent:
        raise RuntimeError(
            f"launcher=slurm needs Slurm's commands on PATH; there is no {', '.join(absent)} here. "
            "Start the sweep on a login node of the cluster, or use launcher=gpu_pool"
        )


def _prepare(spec: JobSpec) -> None:
    """Put the job into its folder. Raises: AlreadyRunningError, ValueError."""
    lease = files.Lease.take(spec.folder)
    try:
        files.write_job(spec)
        remote.forget_exit(spec.folder)
    finally:
        lease.close()


def _record(folder: Path) -> dict[str, Any] | None:
    return files.read_json(folder / RECORD)


def _write_record(folder: Path, record: Mapping[str, Any], **more: Any) -> None:
    files.write_atomic(folder / RECORD, json.dumps({**record, **more}) + "\n")


def _by_comment(token: str) -> str | None:
    found = [job for job, comment in slurm_queue.mine().items() if comment == f"jdx:{token}"]
    return found[0].partition("_")[0] if found else None


def _alive(slurm: Status, told: Status | None) -> Status:
    """A job in the queue: its start and cards from the folder, if the folder is as far as Slurm."""
    if slurm.state is State.RUNNING and told is not None and told.state is State.RUNNING:
        return replace(told, reason=slurm.reason)
    if slurm.state is State.PENDING and told is not None:  # SIGTERM left the result of a cancelled job behind
        return replace(
            slurm, reason=f"back in the queue ({slurm.reason})" if slurm.reason else "back in the queue"
        )
    return slurm
