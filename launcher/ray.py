"""Jobs in a Ray cluster, one detached, named actor each. The job's folder lies on a file system that all nodes share.

An actor's name goes into the folder (`ray.json`) before it is made, so a job is found again by any later controller.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launcher import folder as files
from launcher import processes, remote
from launcher.base import AlreadyRunningError, Executor, Handle, JobSpec, Kind, State, Status, job_id
from launcher.cluster_settings import RaySettings

RECORD = "ray.json"
"""attempt, actor, cancelled."""
OURS = ("RAY_", "SLURM_")
HERE = {"CUDA_VISIBLE_DEVICES", "HOSTNAME", "TMPDIR", processes.TAG}
"""Variables of the controller's environment that mean nothing, or harm, on another host (and those with `OURS`)."""
ANSWER = 30.0
"""Seconds that an actor may take to answer when it is alive."""


@dataclass
class _Job:
    """What this executor knows of one attempt."""

    folder: Path
    attempt: int
    actor: Any
    ready: Any
    ended: Any
    cancelled: bool = False
    status: Status = field(default_factory=lambda: Status(State.PENDING))
    died: BaseException | None = None
    """Why the actor is gone."""


class RayExecutor(Executor):
    """submit = an actor, poll = the folder and the actor's life, cancel = a word to the actor."""

    name = "ray"

    def __init__(self, settings: RaySettings):
        """Connects to the cluster. Raises: ImportError without Ray, RuntimeError where there is no cluster."""
        if importlib.util.find_spec("ray") is None:
            raise ImportError("launcher=ray needs Ray: pip install 'jdx[ray]'")
        self.settings = settings
        self._ray = _connect(settings)
        self._jobs: dict[str, _Job] = {}

    def capacity(self, like: JobSpec | None = None) -> int:
        """By the cluster's free resources; a job of ours that has no place yet counts as if it had one."""
        wants = self._wants(like or JobSpec(Path(), "any:job"))
        mine = [job for job in self._jobs.values() if not job.status.over]
        waiting = sum(job.status.state is State.PENDING for job in mine)
        # What is free is reported with a delay, so it is bounded by what there is at all.
        free = _fit(self._ray.available_resources(), wants) - waiting
        room = _fit(self._ray.cluster_resources(), wants) - len(mine)
        return max(0, min(free, room, self.settings.max_jobs - len(mine)))

    def _wants(self, spec: JobSpec) -> dict[str, float]:
        return {"CPU": spec.cpus, "GPU": spec.gpus, **self.settings.resources}

    def submit(self, spec: JobSpec) -> Handle:
        """Make the actor; Ray starts it where and when there is room."""
        record = files.read_json(spec.folder / RECORD)
        if record is not None and self._lives(record, spec.folder):
            raise AlreadyRunningError(f"{spec.folder} has the Ray actor {record['actor']} already")
        lease = files.Lease.take(spec.folder)
        try:
            files.write_job(spec)
            remote.forget_exit(spec.folder)
        finally:
            lease.close()
        name = f"{spec.name or spec.folder.name}-{spec.attempt}-{uuid.uuid4().hex[:12]}"
        _write_record(spec.folder, {"attempt": spec.attempt, "actor": name})
        self._jobs[spec.id] = self._start(spec, name)
        return {"id": spec.id, "folder": str(spec.folder.absolute()), "attempt": spec.attempt, "actor": name}

    def _start(self, spec: JobSpec, name: str) -> _Job:
        from launcher.ray_job import RayJob

        env = {
            key: value for key, value in os.environ.items() if key not in HERE and not key.startswith(OURS)
        }
        options = {
            "name": name,
            "namespace": self.settings.namespace,
            "lifetime": "detached",
            "num_cpus": spec.cpus,
            "num_gpus": spec.gpus,
            "resources": dict(self.settings.resources),
            "max_restarts": 0,
        }
        folder = spec.folder.absolute()
        actor = (
            self._ray.remote(RayJob).options(**options).remote(str(folder), spec.attempt, env, os.getcwd())
        )
        return _watched(folder, spec.attempt, actor)

    def _lives(self, record: Mapping[str, Any], folder: Path) -> bool:
        told = remote.told(folder, record["attempt"])
        return (
            not (told and told.over)
            and not record.get("cancelled")
            and self._actor(record["actor"]) is not None
        )

    def _actor(self, name: str) -> Any | None:
        """The actor of that name, if Ray still has it."""
        try:
            return self._ray.get_actor(name, namespace=self.settings.namespace)
        except ValueError:
            return None

    # -- what became of it ------------------------------------------------------------------------------------------

    def poll(self, handles: Iterable[Handle]) -> dict[str, Status]:
        """The folder's word first, then the life of its actor."""
        known, statuses = {}, {}
        for handle in handles:
            try:
                known[handle["id"]] = self._known(handle)
            except KeyError as error:
                told = remote.told(Path(handle["folder"]), handle.get("attempt", 0))
                statuses[handle["id"]] = told or Status(State.LOST, reason=str(error.args[0]))
        for job in known.values():
            if not job.status.over:
                self._look(job)
        return statuses | {name: job.status for name, job in known.items()}

    def _look(self, job: _Job) -> None:
        self._feel(job)
        told = remote.told(job.folder, job.attempt)
        if told is not None and told.over:
            job.status = _as_cancelled(told) if job.cancelled and told.kind is Kind.KILLED else told
            if job.actor is not None:  # it goes by itself, but its place is free sooner so
                self._ray.kill(job.actor, no_restart=True)
        elif job.died is None:
            placed = job.status.state is State.RUNNING or bool(self._ray.wait([job.ready], timeout=0)[0])
            job.status = told or Status(State.RUNNING if placed else State.PENDING)
        elif told is not None and remote.beats(job.folder):
            job.status = replace(told, reason="its actor is gone, it is being ended")
        else:
            job.status = _lost(job)

    def _feel(self, job: _Job) -> None:
        """Whether the actor has gone. It also goes by itself, with the job's end in the folder."""
        if job.died is None and self._ray.wait([job.ended], timeout=0)[0]:
            try:
                self._ray.get(job.ended)
            except (
                self._ray.exceptions.ActorUnavailableError
            ):  # perhaps for the moment only: Ray is finding out
                job.ready, job.ended = job.actor.ready.remote(), job.actor.ended.remote()
            except self._ray.exceptions.RayError as error:
                job.died = error

    def adopt(self, handle: Handle) -> bool:
        """True for a job that has its result, or whose actor Ray still has; the folder alone is handle enough."""
        try:
            job = self._known(handle)
        except KeyError:
            return remote.told(Path(handle["folder"]), handle.get("attempt", 0)) is not None
        self._look(job)
        if job.status.state is State.LOST:
            self._jobs.pop(handle.get("id") or job_id(job.folder, job.attempt), None)
            return False
        return True

    def _known(self, handle: Handle) -> _Job:
        """What we know of a handle's attempt. Raises: KeyError when nothing in its folder tells of it."""
        if handle.get("id") in self._jobs:
            return self._jobs[handle["id"]]
        folder = Path(handle["folder"]).absolute()
        record = files.read_json(folder / RECORD)
        attempt = handle.get("attempt", (record or {}).get("attempt"))
        if record is None or record["attempt"] != attempt:
            raise KeyError(f"{folder} holds no Ray job of attempt {attempt}: adopt() it or submit it again")
        actor = self._actor(record["actor"])
        if actor is None:
            gone = RuntimeError(f"Ray has no actor {record['actor']}")
            job = _Job(folder, attempt, None, None, None, died=gone)
        else:
            job = _watched(folder, attempt, actor)
        job.cancelled = bool(record.get("cancelled"))
        self._jobs[handle.get("id") or job_id(folder, attempt)] = job
        return job

    # -- ending -----------------------------------------------------------------------------------------------------

    def cancel(self, handle: Handle, grace: float = 5.0) -> None:
        """SIGTERM, after `grace` SIGKILL to the whole tree; returns when it is gone."""
        self.cancel_all([handle], grace)

    def cancel_all(self, handles: Iterable[Handle], grace: float = 5.0) -> None:
        """All graces run side by side."""
        handles = list(handles)
        statuses = self.poll(handles)
        jobs = [self._known(handle) for handle in handles if not statuses[handle["id"]].over]
        answers = []
        for job in jobs:
            job.cancelled = True
            _write_record(job.folder, {**(files.read_json(job.folder / RECORD) or {}), "cancelled": True})
            if job.actor is not None and self._ray.wait([job.ready], timeout=0)[0]:
                answers.append(job.actor.cancel.remote(grace))
        if answers:
            self._ray.wait(answers, num_returns=len(answers), timeout=grace + ANSWER)
        for job in jobs:
            self._remove(job)

    def _remove(self, job: _Job) -> None:
        """Take the actor away; its guardian ends what is left of the job."""
        if job.actor is not None:
            self._ray.kill(job.actor, no_restart=True)
        deadline = time.monotonic() + ANSWER
        while files.is_held(job.folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        told = remote.told(job.folder, job.attempt)
        ended = Status(State.EXITED, reason="cancelled", kind=Kind.CANCELLED)
        if told is not None and told.over:
            ended = _as_cancelled(told) if told.kind is Kind.KILLED else told
        job.status = ended

    def close(self, *, kill: bool) -> None:
        """kill=False: Ray keeps the actors. The connection is the process's, and ends with it."""
        if kill:
            alive = [name for name, job in self._jobs.items() if not job.status.over]
            self.cancel_all(
                [{"id": name, "folder": str(self._jobs[name].folder), "attempt": self._jobs[name].attempt}
                 for name in alive], grace=1.0)  # fmt: skip
        self._jobs.clear()


def _connect(settings: RaySettings) -> Any:
    import ray

    if not ray.is_initialized():
        try:
            ray.init(
                address=settings.address,
                namespace=settings.namespace,
                log_to_driver=False,
                configure_logging=False,
                logging_level="warning",
            )
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise RuntimeError(
                f"launcher=ray finds no Ray cluster at address {settings.address!r} ({error}). Start one "
                "(`ray start --head` here, `ray start --address=HOST:6379` on the others), or give launcher.address"
            ) from error
    return ray


def _fit(resources: Mapping[str, float], wants: Mapping[str, float]) -> int:
    """How many such jobs the resources hold, all nodes taken together."""
    return int(min(resources.get(name, 0.0) / amount + 1e-9 for name, amount in wants.items() if amount))


def _watched(folder: Path, attempt: int, actor: Any) -> _Job:
    return _Job(folder, attempt, actor, actor.ready.remote(), actor.ended.remote())


def _as_cancelled(status: Status) -> Status:
    return replace(status, kind=Kind.CANCELLED, reason="cancelled")


def _lost(job: _Job) -> Status:
    """An actor that is gone without a word from the job."""
    if job.cancelled:
        return Status(State.EXITED, reason="cancelled", kind=Kind.CANCELLED)
    words = " ".join(str(job.died).split())
    if "low on memory" in words or type(job.died).__name__ == "OutOfMemoryError":
        return Status(State.EXITED, 1, words, kind=Kind.OOM)
    preempted = bool(getattr(job.died, "preempted", False))
    return Status(State.PREEMPTED if preempted else State.LOST, reason=words)


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    files.write_atomic(folder / RECORD, json.dumps(record) + "\n")
