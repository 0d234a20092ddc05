"""The one loop of a sweep: asks for a point when a slot is free, follows its jobs, tells the study how they ended.

It may be killed at any moment. Everything it needs stands in the study and in the jobs' folders, and the next
controller goes on from there: finished jobs are taken in, running ones adopted, lost ones started again.
"""

from __future__ import annotations

import logging
import math
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from jdx.disk import FULL
from jdx.words import counted
from launcher.base import AlreadyRunningError, Executor, JobSpec, State, Status, UnreachableError
from launcher.folder import ask_to_stop, read_events, read_lease
from sweeps.attempts import NAN, Failure, Job
from sweeps.ledger import PRUNED, RECORD, Ledger, Ticket
from sweeps.scores import Mode, Scores
from sweeps.view import Progress, Running, View

log = logging.getLogger(__name__)

TICK = 0.5
"""Seconds between two looks at the jobs, at most; executors wake the controller when one ends."""
REST = 15.0
"""Seconds without new trials after the disk was full, or whoever runs the jobs could not be reached."""

Maker = Callable[[Ticket, int | None, Path, int], JobSpec]
"""(point, seed, folder, attempt) -> the job to submit."""


@dataclass(frozen=True)
class Rules:
    """How a sweep is run."""

    n_jobs: int | None = None  # jobs at once; None = as many as the executor has room for
    retries: int = 2
    max_failure_rate: float = 1.0
    seeds: Sequence[int] = ()
    objectives: Sequence[str] = ("value",)
    mode: Mode = "off"
    like: JobSpec | None = None  # what the jobs ask of the executor


@dataclass
class Trial:
    """A point that is being tried."""

    ticket: Ticket
    jobs: list[Job]
    scores: Scores
    stopping: bool = False  # the pruner has seen enough
    begun: float = field(default_factory=time.monotonic)


class TooManyFailuresError(RuntimeError):
    """The share of failed trials is above `max_failure_rate`."""


class Controller:
    """Runs a sweep to its end. `run` returns True when the budget is spent, False when it was interrupted before."""

    def __init__(
        self,
        ledger: Ledger,
        executor: Executor,
        maker: Maker,
        folder: Path,
        rules: Rules,
        view: View,
        config: Any = None,
    ):
        self.ledger, self.executor, self.maker, self.folder = ledger, executor, maker, folder
        self.rules, self.view, self.config = rules, view, config
        self.trials: dict[int, Trial] = {}
        self.queue: deque[Job] = deque()
        self.interrupts = 0
        self.finished = self.failed = 0
        self.gpu_seconds = self.trial_seconds = 0.0
        self._resting_until = 0.0
        self._began = time.monotonic()

    def run(self) -> bool:
        """See the class. Raises: TooManyFailuresError after the running trials ended, StorageGoneError."""
        kill = False
        try:
            with self._signals():
                self._recover()
                while not self._over():
                    self._collect()
                    self._start()
                    self.ledger.sign(self.config)
                    self.view.refresh(self._progress())
                    self._look_ahead()
                    if self.trials:
                        self.executor.wait(TICK)
                    elif not self._over():
                        time.sleep(min(TICK, 0.05) if not self._resting else TICK)
            kill = self.interrupts > 1
            self._check_failures()
            return self.ledger.left() == 0 and not self.trials
        finally:
            if kill:
                self.executor.cancel_all([job.handle for job in self._active() if job.handle is not None])
            self.executor.close(kill=kill)

    # --- the ends -------------------------------------------------------------------------------------------------

    def _over(self) -> bool:
        if self.interrupts > 1:
            return True
        if self._draining:
            return not self._active()
        return not self.trials and (self.ledger.left() == 0 or self._too_many_failed())

    @property
    def _draining(self) -> bool:
        """Whether what runs is finished and nothing new begun."""
        return self.interrupts > 0

    def _too_many_failed(self) -> bool:
        done = self.finished + self.failed
        at_once = max(1, self.rules.n_jobs or 1)  # upstream looks at a batch of n_jobs trials at a time
        return self.failed / max(done, at_once) > self.rules.max_failure_rate

    def _check_failures(self) -> None:
        if self._too_many_failed():
            raise TooManyFailuresError(
                f"{self.failed} of {self.finished + self.failed} trials failed, more than "
                f"hydra.sweeper.max_failure_rate = {self.rules.max_failure_rate:g} allows"
            )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C once: what runs is finished. Twice: everything ends now. Three times: nothing is waited for."""

        def heard(number: int, frame: FrameType | None) -> None:
            self.interrupts += 1
            if self.interrupts > 2:  # ending takes long where a cluster does not answer
                raise KeyboardInterrupt
            self.view.say(
                f"{signal.Signals(number).name}: finishing what runs, beginning nothing new; once more ends all now"
                if self.interrupts == 1
                else "ending the running trials; the same command begins them again"
            )

        before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # --- restart --------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Resolve what an earlier controller left, before anything is asked: running trials repel the sampler."""
        self.finished, self.failed = self.ledger.tally()
        for ticket in self.ledger.unfinished(self.config):
            trial = self._trial(ticket)
            for job in trial.jobs:
                if self.trials.get(ticket.number) is trial:  # else an earlier repetition has ended it
                    self._recover_job(trial, job)

    def _recover_job(self, trial: Trial, job: Job) -> None:
        if not job.begun:
            self.queue.append(job)
            return
        handle = job.last_handle()
        if self.executor.adopt(handle):
            job.handle = handle
            self.view.happened("adopted", job.ticket.number, f"attempt {job.attempt}")
        elif any(failure.attempt == job.attempt for failure in job.failures):
            self._failed(trial, job, job.failures[-1])
        else:
            self._failed(trial, job, job.lost())

    # --- following ------------------------------------------------------------------------------------------------

    def _active(self) -> list[Job]:
        return [job for trial in self.trials.values() for job in trial.jobs if job.handle is not None]

    def _collect(self) -> None:
        """Take in what the jobs have said and how they ended."""
        active = self._active()
        if not active:
            return
        statuses = self.executor.poll([job.handle for job in active if job.handle is not None])
        over = sum(status.over for status in statuses.values())
        self._start_ready(over)  # before the study is told: that takes longer than starting
        for job in active:
            trial = self.trials.get(job.ticket.number)
            if trial is None or job.handle is None:
                continue  # another repetition has ended the trial a moment ago
            job.status = statuses[job.handle["id"]]
            self._hear(trial, job)
            if job.status.over:
                self._ended(trial, job, job.status)

    def _hear(self, trial: Trial, job: Job) -> None:
        repetition = trial.jobs.index(job)
        for step, value in trial.scores.take(repetition, job.events()):
            self.ledger.report(trial.ticket, step, value)
            self.view.happened("reported", job.ticket.number)
            if not trial.stopping and self.ledger.should_stop(trial.ticket):
                self._stop(trial)

    def _stop(self, trial: Trial) -> None:
        """Have all repetitions of a trial end early."""
        trial.stopping = True
        self.view.happened("stopping", trial.ticket.number, f"after {counted(trial.scores.styles, 'style')}")
        for one in trial.jobs:
            if one.handle is not None:
                ask_to_stop(one.folder)
            elif one in self.queue:
                self.queue.remove(one)
                one.outcome = {"stopped": True}

    def _ended(self, trial: Trial, job: Job, status: Status) -> None:
        before = job.gpu_seconds
        failure = job.end(status)
        self.gpu_seconds += job.gpu_seconds - before
        if failure is None and not self._stopped(job):
            faults = [
                f"{name} is {value!r}"
                for name, value in self._objectives(job).items()
                if not isinstance(value, (int, float)) or not math.isfinite(value)
            ]
            if faults:
                failure = job.reject(NAN, ", ".join(faults))
        elif failure is None and not trial.stopping:  # by hand: somebody made the file `stop`
            self._stop(trial)
        if failure is not None:
            self._failed(trial, job, failure)
        elif all(one.outcome is not None for one in trial.jobs):
            self._complete(trial)

    @staticmethod
    def _stopped(job: Job) -> bool:
        return bool(job.outcome and job.outcome.get("stopped"))

    def _objectives(self, job: Job) -> dict[str, Any]:
        """What the job gives for each objective, whatever it is."""
        found: dict[str, Any] = {}
        outcome = job.outcome or {}
        for name in self.rules.objectives:
            if name == "gpu_seconds":
                found[name] = job.gpu_seconds
            elif name == "value" and isinstance(outcome.get("value"), list):
                found |= {f"value[{i}]": one for i, one in enumerate(outcome["value"])}
            else:
                found[name] = (
                    outcome.get("value") if name == "value" else outcome.get("metrics", {}).get(name)
                )
        return found

    def _complete(self, trial: Trial) -> None:
        attrs = self._attrs(trial)
        if any(self._stopped(job) for job in trial.jobs):
            self._tell_stopped(trial, attrs)
        else:
            each = [list(self._objectives(job).values()) for job in trial.jobs]
            if len({len(values) for values in each} | {len(self.ledger.higher)}) > 1:
                wanted = len(self.ledger.higher)
                self._give_up(
                    trial, f"gave {len(each[0])} values for {wanted} directions of hydra.sweeper.direction"
                )
                return
            values = [statistics.fmean(column) for column in zip(*each, strict=True)]
            if len(each) > 1:
                attrs["repetitions"] = {
                    str(job.seed): value for job, value in zip(trial.jobs, each, strict=True)
                }
            self.ledger.complete(trial.ticket, values, {RECORD: attrs})
            self._leave(trial, "finished", ", ".join(f"{value:.5g}" for value in values))
        self.finished += 1

    def _tell_stopped(self, trial: Trial, attrs: Mapping[str, Any]) -> None:
        """With an estimate, where there is something to estimate it from."""
        best = self.ledger.best() if len(self.ledger.higher) == 1 else None
        if self.rules.mode == "off":  # the study has no styles: they stand in the jobs' folders
            seen, of_best = trial.scores.pairs, self._styles_of(best.number) if best else {}
        else:
            seen, of_best = self.ledger.steps(trial.ticket), best.intermediate_values if best else {}
        guess = self.ledger.estimate(seen, of_best)
        if guess is None:
            self.ledger.stop(trial.ticket, "stopped before anything was scored", {RECORD: attrs})
            self._leave(trial, "stopped", "without an estimate")
        else:
            self.ledger.complete(trial.ticket, [guess], {RECORD: attrs, PRUNED: True})
            self._leave(
                trial, "stopped", f"estimate {guess:.4f} after {counted(trial.scores.styles, 'style')}"
            )

    def _styles_of(self, number: int) -> dict[int, float]:
        """The styles' scores of an earlier trial, if it was run in this folder."""
        folders = self._folders(number)
        scores = Scores("off", len(folders))
        for repetition, folder in enumerate(folders):
            scores.take(repetition, read_events(folder)[0])
        return scores.pairs

    def _attrs(self, trial: Trial) -> dict[str, Any]:
        return {
            "attempts": sum(job.attempt + 1 for job in trial.jobs),
            "seconds": round(sum(job.seconds for job in trial.jobs), 3),
            "gpu_seconds": round(sum(job.gpu_seconds for job in trial.jobs), 3),
            "run_dirs": [
                str(job.outcome["run_dir"]) for job in trial.jobs if job.outcome and "run_dir" in job.outcome
            ],
        }

    def _failed(self, trial: Trial, job: Job, failure: Failure) -> None:
        """An attempt is over without a value: once more, or the trial has failed."""
        if trial.stopping or job.may_retry(self.rules.retries):  # else the trial's own line says it
            self.view.happened("attempt failed", job.ticket.number, f"attempt {failure.attempt}: {failure}")
        if failure.kind == "disk_full":
            self._rest(str(failure))
        if trial.stopping:
            job.outcome = {"stopped": True}
            if all(one.outcome is not None for one in trial.jobs):
                self._complete(trial)
        elif job.may_retry(self.rules.retries):
            job.attempt += 1
            self.queue.appendleft(job)
        else:
            self._give_up(trial, str(failure))

    def _give_up(self, trial: Trial, reason: str) -> None:
        self.executor.cancel_all([job.handle for job in trial.jobs if job.handle is not None])
        self.queue = deque(job for job in self.queue if job.ticket.number != trial.ticket.number)
        self.ledger.fail(trial.ticket, reason, {RECORD: self._attrs(trial)})
        self.failed += 1
        self._leave(trial, "failed", reason)

    def _leave(self, trial: Trial, how: str, text: str) -> None:
        self.trial_seconds += time.monotonic() - trial.begun
        del self.trials[trial.ticket.number]
        self.view.happened(how, trial.ticket.number, text)

    # --- starting -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._draining or self._resting:
            return
        room = self._room()
        while room > 0:
            if not self.queue and not self._ask():
                return
            if not self._submit(self.queue.popleft()):
                return
            room -= 1

    def _start_ready(self, freed: int) -> None:
        """Give places that were freed to jobs whose point is known already."""
        if not (freed and self.queue) or self._draining or self._resting:
            return
        for _ in range(min(self._room(freed), len(self.queue))):
            if not self._submit(self.queue.popleft()):
                return

    def _look_ahead(self) -> None:
        """Have one point and its job ready for the next free slot, where results cannot change the choice."""
        busy = self._draining or self._resting or self.queue or not self.trials
        if not busy and self.ledger.may_look_ahead and self._ask():
            job = self.queue[0]
            job.spec = self.maker(job.ticket, job.seed, job.folder, job.attempt)

    def _room(self, freed: int = 0) -> int:
        """Jobs that may start now; freed: of those that are still followed, how many are over."""
        active = len(self._active()) - freed
        limit = math.inf if self.rules.n_jobs is None else self.rules.n_jobs - active
        if limit <= 0 or not (self.queue or (self.ledger.left() and not self._too_many_failed())):
            return 0
        return int(min(limit, self.executor.capacity(self.rules.like)))

    def _ask(self) -> bool:
        """Put the next point's jobs into the queue; False when there is none."""
        if self.ledger.left() == 0 or self._too_many_failed():
            return False
        ticket = self.ledger.ask(self.config)
        if ticket is None:
            return False
        self.view.happened("asked", ticket.number, ", ".join(f"{k}={v}" for k, v in ticket.params.items()))
        self.queue.extend(self._trial(ticket).jobs)
        return True

    def _trial(self, ticket: Ticket) -> Trial:
        folders = self._folders(ticket.number)
        jobs = [Job.load(ticket, seed, folder) for seed, folder in zip(self._seeds, folders, strict=True)]
        trial = Trial(ticket, jobs, Scores(self.rules.mode, len(jobs)))
        self.trials[ticket.number] = trial
        return trial

    @property
    def _seeds(self) -> Sequence[int | None]:
        return self.rules.seeds or (None,)

    def _folders(self, number: int) -> list[Path]:
        """Of a trial's jobs, one for each seed."""
        names = [f"{number:04d}" + ("" if seed is None else f"-s{seed}") for seed in self._seeds]
        return [self.folder / "jobs" / name for name in names]

    def _submit(self, job: Job) -> bool:
        """Start a job; False when it had to be put back."""
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            job.clear()
            spec = job.spec or self.maker(job.ticket, job.seed, job.folder, job.attempt)
            job.spec = None  # another attempt is another job
            handle = self.executor.submit(spec)
            self.view.happened("submitted", job.ticket.number)
            job.keep_handle(handle)
        except AlreadyRunningError:
            job.attempt = int(read_lease(job.folder).get("attempt", job.attempt))
            job.handle = job.last_handle()
            self.executor.adopt(job.handle)
        except UnreachableError:  # the executor has said so, and bounds it
            self.queue.appendleft(job)
            self._resting_until = time.monotonic() + REST
            return False
        except OSError as error:
            if error.errno not in FULL:
                raise
            if job.handle is None:
                self.queue.appendleft(job)
            self._rest(f"{error.strerror}: {error.filename or self.folder}")
            return False
        self.view.happened("started", job.ticket.number, f"attempt {job.attempt}" if job.attempt else "")
        return True

    def _rest(self, why: str) -> None:
        self._resting_until = time.monotonic() + REST
        self.view.say(f"no new trials for {REST:.0f} s: {why}")

    @property
    def _resting(self) -> bool:
        return time.monotonic() < self._resting_until

    # --- telling people -------------------------------------------------------------------------------------------

    def _progress(self) -> Progress:
        running = [
            Running(
                job.name,
                dict(job.ticket.params),
                time.time() - job.status.started if job.status and job.status.started else None,
                job.status.gpus if job.status else (),
                job.attempt,
                trial.scores.styles,
                pending=job.status is None or job.status.state is State.PENDING,
            )
            for trial in self.trials.values()
            for job in trial.jobs
            if job.handle is not None
        ]
        return Progress(
            n_trials=self.ledger.n_trials,
            finished=self.finished,
            failed=self.failed,
            running=running,
            gpu_seconds=self.gpu_seconds,
            mean_seconds=self.trial_seconds / max(1, self.finished + self.failed),
            elapsed=time.monotonic() - self._began,
            slots=self.executor.slots,
            best=self.ledger.best if len(self.ledger.higher) == 1 else None,
            draining=self._draining,
        )
