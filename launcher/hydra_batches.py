"""Any Hydra launcher behind the contract of executors, in batches, as Hydra's own sweepers use them.

Its limits are the launchers': the next batch starts when the slowest job of this one has ended; cards are not leased
(each job sees what the launcher gives it); a worker serves one job; a job that the launcher itself has lost is seen
when its batch ends. Everything that happens inside a job's folder is as with every executor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as record

from launcher import processes
from launcher.base import AlreadyRunningError, Executor, Handle, JobSpec, Kind, State, Status
from launcher.folder import (
    Lease,
    is_held,
    read_json,
    read_lease,
    read_result,
    status_of,
    tell_failure,
    write_atomic,
    write_job,
)
from launcher.hydra_batch import CANCELLED
from launcher.settings import CONFIG
from launcher.warm import with_path

BATCH = ".hydra_batch.json"
"""In a job's folder: which batch it belongs to."""
HERE = ("basic", "joblib", "submitit_local")
"""Hydra's launchers that start their jobs on the controller's machine."""
SIGNING = 10.0
"""Seconds that a worker may take from its lease to its name in it."""


@record(frozen=True, kw_only=True, config=CONFIG)
class HydraSettings:
    """A launcher by Hydra's name and how it is used."""

    launcher: str = "basic"
    """As in hydra/launcher=NAME: basic, joblib, submitit_local, submitit_slurm, ..."""
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Jobs handed over together."""
    overrides: list[str] = field(default_factory=list)
    """The launcher's own settings: [hydra.launcher.n_jobs=4]."""

    @property
    def is_here(self) -> bool:
        """Whether that launcher is known to run jobs on this machine."""
        return self.launcher in HERE


@dataclass
class _Batch:
    folder: Path
    pid: int
    born: float | None
    ids: list[str]
    process: subprocess.Popen[bytes] | None = None
    """None: an earlier controller started it."""

    @property
    def alive(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        return processes.is_alive(self.pid, self.born)

    def end(self) -> None:
        """Kill it with all it started."""
        processes.kill_tree(self.pid, self.born, _tag(self.folder))
        if self.process is not None:
            self.process.wait()


class HydraBatches(Executor):
    """Jobs of one batch run side by side or one after the other, as the launcher does it."""

    name = "hydra"

    def __init__(self, settings: HydraSettings | None = None):
        self.settings = settings or HydraSettings()
        self._jobs: dict[str, tuple[Path, int]] = {}
        self._final: dict[str, Status] = {}
        self._queue: list[str] = []
        self._batches: dict[Path, _Batch] = {}
        """Those that run, by folder: one of ours, or one or more that earlier controllers left."""
        self._count = 0

    def capacity(self, like: JobSpec | None = None) -> int:
        """Room in the batch that comes next; none as long as one runs."""
        self._drive(start=False)
        return 0 if self._batches else max(0, self.settings.batch_size - len(self._queue))

    def submit(self, spec: JobSpec) -> Handle:
        """Into the next batch, which starts at the next `poll`."""
        lease = Lease.take(spec.folder)
        try:
            write_job(spec)
            (spec.folder / BATCH).unlink(missing_ok=True)
        finally:
            lease.close()
        self._jobs[spec.id] = (spec.folder.absolute(), spec.attempt)
        self._final.pop(spec.id, None)
        self._queue.append(spec.id)
        return {
            "id": spec.id,
            "folder": str(spec.folder.absolute()),
            "attempt": spec.attempt,
            "executor": self.name,
        }

    def poll(self, handles: Iterable[Handle]) -> dict[str, Status]:
        """See `Executor`."""
        names = [self._known(handle) for handle in handles]
        self._drive(start=True)
        return {name: self._status(name) for name in names}

    def adopt(self, handle: Handle) -> bool:
        """A job that runs, has its result, or whose batch is still being worked on."""
        folder, attempt = Path(handle["folder"]), int(handle["attempt"])
        ours = is_held(folder) and bool(read_lease(folder, attempt))
        known = self._join_batch(folder, attempt, str(handle["id"]))
        return ours or known or read_result(folder, attempt) is not None

    def cancel(self, handle: Handle, grace: float = 5.0) -> None:
        """See `Executor`."""
        self.cancel_all([handle], grace)

    def cancel_all(self, handles: Iterable[Handle], grace: float = 5.0) -> None:
        """A job of the batch that has not started yet is given its result now, so the worker refuses it later."""
        names = [self._known(handle) for handle in handles]
        self._cancel([name for name in names if not self._status(name).over], grace)

    def _cancel(self, live: list[str], grace: float) -> None:
        for name in live:
            if name in self._queue:
                self._queue.remove(name)
            self._ask(name)
        deadline = time.monotonic() + grace
        while not all(self._status(name).over for name in live) and time.monotonic() < deadline:
            time.sleep(0.02)
        for name in live:
            if not self._status(name).over:
                folder, attempt = self._jobs[name]
                lease = self._holder(name) or {}
                reason = f"cancelled, and killed after {grace:g} s"
                write_atomic(folder / CANCELLED, json.dumps({"attempt": attempt, "reason": reason}))
                processes.kill_tree(int(lease.get("pid", 0)), lease.get("born"), str(lease.get("tag", "")))
                self._say(name, reason)

    def _ask(self, name: str) -> None:
        """SIGTERM to the worker of a job; where there is none, the result that keeps one from starting."""
        for _ in range(2):
            if lease := self._holder(name):
                processes.ask(int(lease["pid"]), lease.get("born"))
                return
            if self._say(name, "cancelled before it started"):
                return  # else a worker has come up in this moment

    def _holder(self, name: str) -> dict[str, Any] | None:
        """The lease of the worker that runs a job, None if there is none; one that has just come up is waited for."""
        folder, attempt = self._jobs[name]
        deadline = time.monotonic() + SIGNING
        while is_held(folder) and time.monotonic() < deadline:
            lease = read_lease(folder, attempt)
            if lease.get("pid"):
                return lease
            time.sleep(0.01)
        return None

    def close(self, *, kill: bool) -> None:
        """See `Executor`; the batch's process goes on for what runs, and starts nothing more once it is killed."""
        self._queue.clear()
        if kill:
            batches, self._batches = list(self._batches.values()), {}
            names = [name for batch in batches for name in batch.ids if not self._status(name).over]
            for batch in batches:
                batch.end()
            for name in names:
                folder, attempt = self._jobs[name]
                if lease := read_lease(folder, attempt):  # what the job started and has left the batch's tree
                    processes.kill_tree(0, None, str(lease.get("tag", "")))
                self._say(name, "cancelled, and ended with its batch")
                self._final.pop(name, None)

    # -- batches ----------------------------------------------------------------------------------------------------

    def _drive(self, *, start: bool) -> None:
        self._batches = {folder: batch for folder, batch in self._batches.items() if batch.alive}
        if start and self._queue and not self._batches:
            names, self._queue = (
                self._queue[: self.settings.batch_size],
                self._queue[self.settings.batch_size :],
            )
            batch = self._begin(names)
            self._batches[batch.folder] = batch

    def _begin(self, names: list[str]) -> _Batch:
        folder = self._jobs[names[0]][0].parent / ".hydra_batches" / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        jobs = [{"folder": str(self._jobs[name][0]), "attempt": self._jobs[name][1]} for name in names]
        content: dict[str, Any] = {
            "launcher": self.settings.launcher,
            "overrides": list(self.settings.overrides),
        }
        content |= {"jobs": jobs, "first": self._count}
        write_atomic(folder / "batch.json", json.dumps(content, indent=1))
        self._count += len(names)
        env = with_path({**os.environ, processes.TAG: _tag(folder)})
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "launcher.hydra_batch", str(folder / "batch.json")],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        born = processes.born(process.pid)
        record = {"pid": process.pid, "born": born, "log": str(folder / "log.txt")}
        for name in names:
            path, attempt = self._jobs[name]
            write_atomic(path / BATCH, json.dumps({**record, "attempt": attempt}))
        return _Batch(folder, process.pid, born, names, process)

    def _join_batch(self, folder: Path, attempt: int, name: str) -> bool:
        """Whether an earlier controller's batch still works on a job; the next batch then waits for that one."""
        record = _live_batch(folder, attempt)
        if record is None:
            return False
        where = Path(record["log"]).parent
        batch = self._batches.setdefault(where, _Batch(where, int(record["pid"]), record.get("born"), []))
        if name not in batch.ids:
            batch.ids.append(name)
        self._jobs.setdefault(name, (folder, attempt))
        return True

    def _known(self, handle: Handle) -> str:
        name = str(handle["id"])
        self._jobs.setdefault(name, (Path(handle["folder"]), int(handle["attempt"])))
        return name

    def _status(self, name: str) -> Status:
        if name in self._final:
            return self._final[name]
        folder, attempt = self._jobs[name]
        if name in self._queue:
            return Status(State.PENDING, reason="waits for the next batch")
        alive = _live_batch(folder, attempt) is not None  # asked first: a batch ends after its jobs' results
        status = status_of(folder, attempt)
        if status is None or (not status.over and not status.started):
            if alive or is_held(folder):
                return Status(State.PENDING, reason="its batch is being launched")
            log = (read_json(folder / BATCH) or {}).get("log", "the batch's log")
            status = Status(State.LOST, None, f"its batch ended without it; see {log}", kind=Kind.CRASHED)
        if status.over:
            code = (read_result(folder, attempt) or {}).get("code")
            if code is not None:
                status = Status(status.state, code, status.reason, status.started, status.gpus, status.kind)
            self._final[name] = status
        return status

    def _say(self, name: str, reason: str) -> bool:
        """Tell that a job was cancelled; False when a worker runs it."""
        folder, attempt = self._jobs[name]
        try:
            tell_failure(folder, attempt, Kind.CANCELLED, reason)
        except AlreadyRunningError:
            return False
        return True


def _tag(folder: Path) -> str:
    return f"batch-{folder.name}"


def _live_batch(folder: Path, attempt: int) -> dict[str, Any] | None:
    """What a job's folder says of its batch, as long as that runs."""
    record = read_json(folder / BATCH) or {}
    ours = record.get("attempt") == attempt
    return record if ours and processes.is_alive(int(record["pid"]), record.get("born")) else None
