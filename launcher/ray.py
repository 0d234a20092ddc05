"""Jobs in a Ray cluster, one detached, named actor each. The job's folder lies on a file system that all nodes share.

An actor's name goes into the folder (`ray.json`) before it is made, so a job is found again by any later controller.
"""

from __future__ import annotations

import importlib.util
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher import folder as files
from launcher import processes, remote
from launcher.base import AlreadyRunningError, Handle, JobSpec, Kind, RefusedError, State, Status
from launcher.cluster import CANCELLED, ClusterExecutor, ClusterJob, as_ended, prepare
from launcher.cluster_settings import RaySettings

OURS = ("RAY_", "SLURM_")
HERE = {"CUDA_VISIBLE_DEVICES", "HOSTNAME", "TMPDIR", processes.TAG}
"""Variables of the controller's environment that mean nothing, or harm, on another host (and those with `OURS`)."""
ANSWER = 30.0
"""Seconds that an actor may take to answer when it is alive."""


@dataclass
class _Job(ClusterJob):
    actor: Any = None
    """None: Ray does not have it."""
    ready: Any = None
    ended: Any = None
    died: BaseException | None = None
    """Why the actor is gone."""


class RayExecutor(ClusterExecutor[_Job]):
    """submit = an actor, poll = the folder and the actor's life, cancel = a word to the actor."""

    name = "ray"
    record = "ray.json"

    def __init__(self, settings: RaySettings):
        """Connects to the cluster. Raises: RefusedError without Ray or a cluster."""
        if importlib.util.find_spec("ray") is None:
            raise RefusedError("launcher=ray needs Ray: pip install 'jdx[ray]'")
        super().__init__(settings.max_jobs)
        self.settings = settings
        self._ray = _connect(settings)

    def capacity(self, like: JobSpec | None = None) -> int:
        """By the cluster's free resources; a job of ours that has no place yet counts as if it had one."""
        wants = self._wants(like or JobSpec(Path(), "any:job"))
        mine = self._open()
        waiting = sum(job.status.state is State.PENDING for job in mine)
        # What is free is reported with a delay, so it is bounded by what there is at all.
        free = _fit(self._ray.available_resources(), wants) - waiting
        room = _fit(self._ray.cluster_resources(), wants) - len(mine)
        return max(0, min(free, room, self._room()))

    def _wants(self, spec: JobSpec) -> dict[str, float]:
        return {"CPU": spec.cpus, "GPU": spec.gpus, **self.settings.resources}

    def submit(self, spec: JobSpec) -> Handle:
        """Make the actor; Ray starts it where and when there is room."""
        record = self._record(spec.folder)
        if record is not None and self._is_taken(record, spec.folder):
            raise AlreadyRunningError(f"{spec.folder} has the Ray actor {record['actor']} already")
        prepare(spec)
        name = f"{spec.name or spec.folder.name}-{spec.attempt}-{uuid.uuid4().hex[:12]}"
        self._new_record(spec.folder, attempt=spec.attempt, actor=name)
        self._jobs[spec.id] = self._start(spec, name)
        return {**self._handle(spec.id), "actor": name}

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

    def _is_taken(self, record: Mapping[str, Any], folder: Path) -> bool:
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

    def _look(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            self._look_at(job)

    def _look_at(self, job: _Job) -> None:
        self._feel(job)
        told = remote.told(job.folder, job.attempt)
        if told is not None and told.over:
            job.status = as_ended(job, told)
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

    def _lives(self, job: _Job) -> bool:
        self._look_at(job)
        return job.status.state is not State.LOST

    def _take_over(self, folder: Path, attempt: int, record: Mapping[str, Any]) -> _Job:
        actor = self._actor(record["actor"])
        if actor is None:
            return _Job(folder, attempt, died=RuntimeError(f"Ray has no actor {record['actor']}"))
        return _watched(folder, attempt, actor)

    # -- ending -----------------------------------------------------------------------------------------------------

    def _end(self, jobs: Sequence[_Job], grace: float) -> None:
        answers = [
            job.actor.cancel.remote(grace)
            for job in jobs
            if job.actor is not None and self._ray.wait([job.ready], timeout=0)[0]
        ]
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
        job.status = as_ended(job, told) if told is not None and told.over else CANCELLED


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
            raise RefusedError(
                f"launcher=ray finds no Ray cluster at address {settings.address!r} ({error}). Start one "
                "(`ray start --head` here, `ray start --address=HOST:6379` on the others), or give launcher.address"
            ) from error
    return ray


def _fit(resources: Mapping[str, float], wants: Mapping[str, float]) -> int:
    """How many such jobs the resources hold, all nodes taken together."""
    return int(min(resources.get(name, 0.0) / amount + 1e-9 for name, amount in wants.items() if amount))


def _watched(folder: Path, attempt: int, actor: Any) -> _Job:
    return _Job(folder, attempt, actor=actor, ready=actor.ready.remote(), ended=actor.ended.remote())


def _lost(job: _Job) -> Status:
    """An actor that is gone without a word from the job."""
    if job.cancelled:
        return CANCELLED
    words = " ".join(str(job.died).split())
    if "low on memory" in words or type(job.died).__name__ == "OutOfMemoryError":
        return Status(State.EXITED, 1, words, kind=Kind.OOM)
    preempted = bool(getattr(job.died, "preempted", False))
    return Status(State.PREEMPTED if preempted else State.LOST, reason=words)
