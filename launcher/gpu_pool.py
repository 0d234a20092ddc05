"""The local pool: one job per card (or several, or several cards per job), warm workers, contained crashes.

Several pools, of several processes and users of one machine, share its cards through the leases of `launcher.places`.
Without a GPU the CPU is a place with a number of slots. `poll` drives everything: there is no thread.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from jdx.disk import FULL
from launcher import processes
from launcher.base import TAKEN, AlreadyRunningError, Executor, Handle, JobSpec, Kind, Slot, State, Status
from launcher.cards import Cards
from launcher.folder import (
    Lease,
    end_of,
    is_held,
    read_job,
    read_lease,
    read_result,
    tell_failure,
    write_job,
)
from launcher.places import Hold
from launcher.pulse import Pulse
from launcher.room import Room
from launcher.settings import PoolSettings
from launcher.warm import Worker

log = logging.getLogger(__name__)

TIMEOUT_GRACE = 30.0
"""Seconds that a job over its time has to end itself before it is killed from outside."""
COURTESY = 0.5
"""Seconds that an idle worker is kept for its own controller although another pool waits."""
HARMLESS = {None, Kind.RAISED}
"""After these a worker may go on: an exception leaves a process as it was."""


@dataclass
class _Job:
    """A job that this pool was given or has adopted."""

    folder: Path
    attempt: int
    spec: JobSpec | None = None
    worker: Worker | None = None
    final: Status | None = None
    cancelled: bool = False
    pulse: Pulse = field(default_factory=Pulse)


class GpuPool(Executor):
    """Executor of the machine it runs on. Raises: PermissionError when the folder of leases is closed to us."""

    name = "gpu_pool"

    def __init__(self, settings: PoolSettings | None = None, cards: Cards | None = None):
        self.settings = settings or PoolSettings()
        self._room = Room(self.settings, cards or Cards())
        self._jobs: dict[str, _Job] = {}
        self._live: set[str] = set()  # started or adopted, and not over
        self._queue: deque[str] = deque()
        self._workers: list[Worker] = []
        self._full = ""  # why the first of the queue waits, where that is a disk
        self._host = socket.gethostname()

    # -- the contract -----------------------------------------------------------------------------------------------

    def capacity(self, like: JobSpec | None = None) -> int:
        """Free and idle places; 0 as long as something waits."""
        self._drive()
        if self._queue:
            return 0
        idle = [hold for worker in self._workers if worker.job is None for hold in worker.holds]
        return self._room.free(self._room.wish(like), idle)

    def submit(self, spec: JobSpec) -> Handle:
        """See `Executor`. Raises also: ValueError when the machine has fewer cards than the job wants."""
        places, _, count = self._room.wish(spec)
        if count > len(places):
            what = f"{spec.gpus:g} cards are wanted and there are {len(places)}"
            raise ValueError(f"job {spec.name or spec.folder}: {what}; lower launcher.gpus_per_trial")
        lease = Lease.take(spec.folder)
        try:
            write_job(spec)
        finally:
            lease.close()
        self._jobs[spec.id] = _Job(spec.folder, spec.attempt, spec)
        self._queue.append(spec.id)
        self._drive()
        return {
            "id": spec.id,
            "folder": str(spec.folder.absolute()),
            "attempt": spec.attempt,
            "executor": self.name,
            "host": self._host,
        }

    def poll(self, handles: Iterable[Handle]) -> dict[str, Status]:
        """See `Executor`."""
        handles = list(handles)
        for handle in handles:
            self._known(handle)
        self._drive()
        return {handle["id"]: self._status(handle["id"]) for handle in handles}

    def cancel(self, handle: Handle, grace: float = 5.0) -> None:
        """See `Executor`."""
        self.cancel_all([handle], grace)

    def cancel_all(self, handles: Iterable[Handle], grace: float = 5.0) -> None:
        """The graces run side by side."""
        self._cancel([self._known(handle) for handle in handles], grace)

    def _cancel(self, ids: list[str], grace: float) -> None:
        for name in ids:
            if name in self._queue:
                self._queue.remove(name)
                self._say(name, Kind.CANCELLED, "cancelled before it started")
            elif not self._status(name).over:
                self._jobs[name].cancelled = True
                pid, born, _ = self._process(name)
                processes.ask(pid, born)
        deadline = time.monotonic() + grace
        while not all(self._settled(name) for name in ids) and time.monotonic() < deadline:
            self._drive()
            time.sleep(0.01)
        for name in ids:
            if not self._settled(name):
                self._kill(name, Kind.CANCELLED, f"cancelled, and killed after {grace:g} s")

    def adopt(self, handle: Handle) -> bool:
        """See `Executor`. A job that only waited in a dead controller's queue is not alive."""
        folder, attempt = Path(handle["folder"]), int(handle["attempt"])
        if handle["id"] not in self._jobs:
            ours = is_held(folder) and bool(read_lease(folder, attempt))
            if not ours and read_result(folder, attempt) is None:
                return False
            self._known(handle)
        return True

    def wait(self, seconds: float) -> None:
        """Until a worker of ours says something; adopted ones are looked at every quarter of a second."""
        adopted = any(self._jobs[name].worker is None for name in self._live)
        links = [worker.link for worker in self._workers if worker.job is not None]
        limit = min(seconds, 0.25) if adopted or self._queue else seconds
        select.select(links, [], [], max(0.0, limit))

    def slots(self) -> list[Slot]:
        """Cards, or the CPU where there are none."""
        used = self._room.leases.used(self._room.places)
        return [
            Slot(
                name=self._room.title(place),
                used=used[place.id],
                size=place.size,
                jobs=tuple(
                    name
                    for worker in self._workers
                    if worker.job is not None
                    and any(hold.place == place for hold in worker.holds)
                    and (name := self._name(worker.job))
                ),
                closed=self._room.closed(place, used[place.id]),
            )
            for place in self._room.places
        ]

    def close(self, *, kill: bool) -> None:
        """See `Executor`. Idle workers end at once, the others when their job is done."""
        if kill:
            self._cancel([name for name in self._jobs if not self._settled(name)], grace=0.5)
        for worker in tuple(self._workers):
            if worker.job is None:
                self._retire(worker)
            else:
                worker.link.close()
        self._workers.clear()
        self._queue.clear()
        self._room.close()

    # -- what drives it ---------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        for worker in tuple(self._workers):
            self._hear(worker)
        for name in tuple(self._live):
            self._watch(name, self._jobs[name])
        for worker in tuple(self._workers):
            if worker.job is None and self._superfluous(worker):
                self._retire(worker)
        self._room.drive()
        while self._queue and self._start(self._queue[0]):
            self._queue.popleft()

    def _superfluous(self, worker: Worker) -> bool:
        """Whether an idle worker should make room: long idle, or another pool waits for its place."""
        idle = time.monotonic() - worker.idle_since
        if idle < COURTESY or self._queue:
            return False
        return idle > self.settings.idle_seconds or any(
            self._room.leases.wanted(hold.place) for hold in worker.holds
        )

    def _hear(self, worker: Worker) -> None:
        """Take a worker's answer, or its death."""
        name = worker.job
        try:
            if worker.answer() is None:
                return
        except EOFError:
            self._bury(worker)
            return
        if name is None:
            return
        final = self._settle(name)
        full = worker.jobs >= (self.settings.jobs_per_worker if self.settings.warm else 1)
        if full or final.kind not in HARMLESS or worker.growth > self.settings.memory_growth:
            self._retire(worker)

    def _bury(self, worker: Worker) -> None:
        """A worker has ended: with a job in hand, that job has ended too."""
        self._workers.remove(worker)
        code = worker.reap()
        name = worker.job
        if name is None or self._jobs[name].final is not None:
            return
        job = self._jobs[name]
        if (told := end_of(job.folder, job.attempt)) is not None:
            self._end(name, told)
            return
        kind, reason = worker.told_by_exit(code)
        if job.cancelled and kind in TAKEN:  # before it could hear SIGTERM
            self._say(name, Kind.CANCELLED, "cancelled")
            return
        started = read_lease(job.folder).get("started")
        self._end(name, Status(State.EXITED, code, reason, started, worker.gpus, kind))

    def _retire(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.end()

    def _settle(self, name: str) -> Status:
        """The end of a job as its folder tells it."""
        job = self._jobs[name]
        status = end_of(job.folder, job.attempt)
        if status is None:
            gpus = job.worker.gpus if job.worker else ()
            status = Status(State.LOST, None, "ended without a result", gpus=gpus, kind=Kind.CRASHED)
        self._end(name, status)
        return status

    def _end(self, name: str, status: Status) -> None:
        self._jobs[name].final = status
        self._live.discard(name)
        if status.kind is Kind.GPU_LOST:
            self._room.set_aside(status.gpus, status.reason)

    def _watch(self, name: str, job: _Job) -> None:
        """End a job that stands still or has outrun its time; adopted ones are followed by their files."""
        if job.worker is None and not self._lives(job):
            self._lose(name, job)
            return
        if job.worker is not None:
            job.worker.note_group()
        started = read_lease(job.folder, job.attempt).get("started")
        job.pulse.feel(job.folder)
        limit = job.spec.timeout if job.spec else None
        if job.pulse.still > self.settings.kill_after:
            self._kill(name, Kind.HUNG, f"no heartbeat for {job.pulse.still:.0f} s: killed")
        elif limit and started and time.time() - started > limit + TIMEOUT_GRACE:
            self._kill(name, Kind.TIMEOUT, f"ran longer than {limit:g} s and did not end itself: killed")

    def _lives(self, job: _Job) -> bool:
        return is_held(job.folder) and bool(read_lease(job.folder, job.attempt))

    def _lose(self, name: str, job: _Job) -> None:
        """An adopted job is over; how, only its folder can tell."""
        lease = read_lease(job.folder, job.attempt)
        if lease.get("tag"):
            processes.kill_tree(0, None, lease["tag"])
        status = end_of(job.folder, job.attempt)
        if status is None and job.cancelled:
            self._say(name, Kind.CANCELLED, "cancelled")
            return
        reason = "its worker ended without a result" if lease else "never started"
        self._end(name, status or Status(State.LOST, None, reason, kind=Kind.KILLED))

    # -- starting ---------------------------------------------------------------------------------------------------

    def _start(self, name: str) -> bool:
        """Start the first of the queue; False when there is no room yet, on the cards or on a disk."""
        spec = self._jobs[name].spec
        assert spec is not None
        try:
            started = self._started(spec)
        except OSError as error:
            if error.errno not in FULL:
                raise
            if not self._full:
                places = f"{spec.folder} or {self._room.leases.root}"
                log.warning("%s waits for room in %s: %s", self._name(name), places, error.strerror)
            self._full = f"waits for room on the disk: {error.strerror}"
            return False
        self._full = ""
        return started

    def _started(self, spec: JobSpec) -> bool:
        key = (spec.gpus, spec.cpus, tuple(sorted(spec.env.items())))
        worker = next((one for one in self._workers if one.job is None and one.key == key), None)
        if worker is not None and not self._fits(worker):
            self._retire(worker)
            worker = None
        holds = [] if worker else self._take(spec)
        if holds is None:
            return False
        with ExitStack() as undo:  # cards and lease are given back unless a worker is there to have them
            for hold in holds:
                undo.callback(hold.release)
            try:
                lease = Lease.take(spec.folder)
            except (AlreadyRunningError, OSError) as error:
                self._end(spec.id, Status(State.LOST, None, str(error), kind=Kind.REFUSED))
                return True
            undo.callback(lease.close)
            lease.write(host=self._host)  # whoever runs the job needs this much room on the disk
            worker = worker or self._new_worker(spec, key, holds)
            undo.pop_all()
        self._hand_over(spec, worker, lease)
        return True

    def _new_worker(self, spec: JobSpec, key: object, holds: list[Hold]) -> Worker:
        gpus = tuple(hold.place.id for hold in holds if hold.place != self._room.cpu)
        worker = Worker.start(spec, self._room.environment(spec, gpus), key, holds, gpus)
        self._workers.append(worker)
        return worker

    def _fits(self, worker: Worker) -> bool:
        """An idle worker whose card has failed meanwhile is not used."""
        return not any(self._room.leases.quarantined(hold.place) for hold in worker.holds)

    def _hand_over(self, spec: JobSpec, worker: Worker, lease: Lease) -> None:
        try:
            self._jobs[spec.id].worker = worker
            # Before the worker does: whoever adopts the job can end it, although its program is only starting.
            who = {"pid": worker.process.pid, "born": worker.born, "tag": worker.tag}
            lease.write(attempt=spec.attempt, host=self._host, gpus=list(worker.gpus), **who)
            with suppress(OSError):  # it died while idle: `_hear` finds the job in its hands
                worker.send(spec, lease)
            worker.job = spec.id
            self._live.add(spec.id)
        finally:
            lease.close()

    def _take(self, spec: JobSpec) -> list[Hold] | None:
        """Room for a job; idle workers that are in its way end, the longest idle first."""
        wish = self._room.wish(spec)
        holds = self._room.take(wish)
        idle = sorted((one for one in self._workers if one.job is None), key=lambda one: one.idle_since)
        while holds is None and idle:
            self._retire(idle.pop(0))
            holds = self._room.take(wish)
        self._room.wait_for(wish[0], waiting=holds is None)
        return holds

    # -- looking ----------------------------------------------------------------------------------------------------

    def _known(self, handle: Handle) -> str:
        """The job's id; one of an earlier controller becomes ours."""
        if handle["id"] not in self._jobs:
            folder, attempt = Path(handle["folder"]), int(handle["attempt"])
            job = _Job(folder, attempt)
            with suppress(OSError, ValueError):
                spec = read_job(folder)
                job.spec = spec if spec.attempt == attempt else None
            self._jobs[handle["id"]] = job
            self._live.add(handle["id"])
        return str(handle["id"])

    def _status(self, name: str) -> Status:
        job = self._jobs[name]
        if job.final is not None:
            return job.final
        if name in self._queue:
            return Status(State.PENDING, reason=self._full or "waits for a free place")
        lease = read_lease(job.folder)
        started = lease.get("started") if lease.get("attempt") == job.attempt else None
        gpus = tuple(lease.get("gpus", ()))
        if started is None:
            return Status(State.PENDING, reason="its worker starts", gpus=gpus)
        still = job.pulse.still
        reason = f"no heartbeat for {still:.0f} s" if still > self.settings.stale_after else ""
        return Status(State.RUNNING, reason=reason, started=started, gpus=gpus)

    def _settled(self, name: str) -> bool:
        return self._jobs[name].final is not None

    def _process(self, name: str) -> tuple[int, float | None, str]:
        """Pid, time of birth and tag of the process that runs a job."""
        job = self._jobs[name]
        if job.worker is not None:
            return job.worker.process.pid, job.worker.born, job.worker.tag
        lease = read_lease(job.folder)
        return int(lease.get("pid", 0)), lease.get("born"), str(lease.get("tag", ""))

    def _kill(self, name: str, kind: Kind, reason: str) -> None:
        """End a job from outside, with all it started, and say so in its folder."""
        log.warning("%s: %s", self._name(name), reason)
        job = self._jobs[name]
        pid, born, tag = self._process(name)
        gone = processes.kill_tree(pid, born, tag)
        if job.worker is not None and job.worker in self._workers:
            self._workers.remove(job.worker)
            job.worker.reap()
        if not gone:
            reason += "; a process of it does not end (it hangs in the kernel)"
        self._say(name, kind, reason)

    def _say(self, name: str, kind: Kind, reason: str) -> None:
        """A job's end that its worker could not tell, in its folder unless it told after all."""
        job = self._jobs[name]
        started = read_lease(job.folder).get("started")
        gpus = job.worker.gpus if job.worker else ()
        where = {"seconds": None, "host": self._host, "gpus": list(gpus)}
        try:
            tell_failure(job.folder, job.attempt, kind, reason, **where)
        except AlreadyRunningError as error:
            self._end(name, Status(State.LOST, None, f"{reason}; {error}", kind=kind))
            return
        except OSError as failure:
            log.warning("%s: its end cannot be written: %s", name, failure)
        status = end_of(job.folder, job.attempt)
        self._end(name, status or Status(State.EXITED, 1, reason, started, gpus, kind))

    def _name(self, name: str) -> str:
        job = self._jobs[name]
        return (job.spec.name if job.spec else "") or job.folder.name
