"""What Slurm knows about jobs: squeue and scontrol first, sacct where accounting is on and the queue has forgotten."""

from __future__ import annotations

import logging
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from launcher.base import Kind, State, Status, UnreachableError

log = logging.getLogger(__name__)

PENDING = {
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
ENDED = {
    "COMPLETED": (State.EXITED, Kind.CRASHED, "ended without a result"),
    "FAILED": (State.EXITED, Kind.CRASHED, "ended without a result"),
    "CANCELLED": (State.EXITED, Kind.CANCELLED, "cancelled in Slurm"),
    "TIMEOUT": (State.EXITED, Kind.TIMEOUT, "over its Slurm time limit"),
    "DEADLINE": (State.EXITED, Kind.TIMEOUT, "over its Slurm deadline"),
    "OUT_OF_MEMORY": (State.EXITED, Kind.OOM, "killed by Slurm for its memory"),
    "PREEMPTED": (State.PREEMPTED, None, "preempted"),
    "NODE_FAIL": (State.LOST, None, "its node failed"),
    "BOOT_FAIL": (State.LOST, None, "its node did not boot"),
    "REVOKED": (State.LOST, None, "revoked: it runs in another cluster of the federation"),
}
"""Slurm's job states (squeue(1), section JOB STATE CODES), all of them, in the contract's words.

A state that is none of these, of a later Slurm, counts as running: nothing is concluded from it, the folder tells the
job's end, and a job that squeue forgets is lost.
"""
CHUNK = 200
"""Job ids per command line."""
UNREACHABLE = 60.0
"""Seconds that one command may take; slurmctld's own MessageTimeout is 10 s, and clients retry."""


class SlurmUnreachableError(UnreachableError):
    """slurmctld does not answer; jobs go on meanwhile, nothing is known about them."""


@dataclass(frozen=True)
class Row:
    """One job in Slurm's words."""

    job: str
    """123 or, of an array, 123_4."""
    state: str
    reason: str = ""
    code: int | None = None
    """Exit code, negative for a signal; known of ended jobs only."""
    restarts: int = 0
    """How often Slurm has sent it back into the queue; known of ended jobs only, and not from sacct."""

    @property
    def over(self) -> bool:
        return self.state in ENDED

    def status(self) -> Status:
        """In the contract's words."""
        if self.state in PENDING:
            return Status(State.PENDING, reason=self.reason)
        if self.state not in ENDED:
            if self.state not in RUNNING:
                _say_unknown(self.state)
            return Status(State.RUNNING, reason="" if self.state == "RUNNING" else self.state.lower())
        state, kind, words = ENDED[self.state]
        code = self.code if state is State.EXITED else None
        if kind is not None and not code:
            code = None if self.state == "COMPLETED" else 1
        detail = f", {self.reason}" if self.reason not in {"", "None"} else ""
        return Status(state, code, f"Slurm job {self.job}: {words}{detail}", kind=kind)


@cache
def _say_unknown(state: str) -> None:
    """Once per state."""
    log.warning("Slurm tells a job state that is not known here, %s: such jobs count as running", state)


def call(program: str, *arguments: str) -> str:
    """Output of one Slurm command.

    Raises: SlurmUnreachableError when slurmctld does not answer, RuntimeError with Slurm's words for any other fault,
    FileNotFoundError where Slurm is not installed.
    """
    command = [program, *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=UNREACHABLE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise SlurmUnreachableError(f"{program} has not answered within {UNREACHABLE:g} s") from None
    if done.returncode:
        error = done.stderr.strip() or f"exit code {done.returncode}"
        raise (SlurmUnreachableError if unreachable(error) else RuntimeError)(f"{program}: {error}")
    return done.stdout


def unreachable(error: str) -> bool:
    """Whether Slurm's words mean that slurmctld is away, busy or just starting."""
    words = (
        "unable to contact",
        "socket timed out",
        "connection refused",
        "communication",
        "zero bytes",
        "timed out",
        "standby mode",
        "temporarily",
        "not responding",
    )
    return any(word in error.lower() for word in words)


class Queue:
    """Looks jobs up; one glance at the queue serves all questions of the next `fresh` seconds."""

    def __init__(self, fresh: float):
        self.fresh = fresh
        self.rows: dict[str, Row] = {}
        self.seen: dict[str, float] = {}
        self.accounting = True

    def look(self, jobs: Iterable[str], now: bool = False) -> dict[str, Row]:
        """Rows of those jobs that Slurm still knows. Raises: SlurmUnreachableError.

        now: do not answer from an earlier glance.
        """
        wanted = set(jobs)
        limit = time.monotonic() - (0.0 if now else self.fresh)
        # An ended job does not change, unless somebody puts it back into the queue before anyone has asked again.
        old = {job for job in wanted if self.seen.get(job, float("-inf")) <= limit}
        for part in _chunks(sorted(old)):
            self._refresh(part)
        return {job: self.rows[job] for job in wanted if job in self.rows}

    def _refresh(self, jobs: Sequence[str]) -> None:
        rows = queued(jobs)
        missing = [job for job in jobs if job not in rows]
        if missing and self.accounting:
            try:
                rows |= accounted(missing)
            except RuntimeError as error:
                if "disabled" not in str(error):
                    raise
                self.accounting = False
        for job in jobs:
            self.seen[job] = time.monotonic()
            if job in rows:
                self.rows[job] = rows[job]
            else:
                self.rows.pop(job, None)


def queued(jobs: Sequence[str]) -> dict[str, Row]:
    """What squeue tells; it forgets ended jobs after MinJobAge (5 minutes unless configured otherwise)."""
    masters = sorted({job.partition("_")[0] for job in jobs})
    try:
        text = call(
            "squeue",
            "--noheader",
            "--states=all",
            "--array",
            f"--jobs={','.join(masters)}",
            "--format=%i|%T|%r",
        )
    except RuntimeError as error:
        if "Invalid job id" in str(error):  # said only when it knows none of them
            return {}
        raise
    rows = {}
    for line in text.splitlines():
        job, state, reason = line.strip().split("|", 2)
        if job in jobs:
            rows[job] = Row(job, state, reason, *(_details(job) if state in ENDED else ()))
    return rows


def _details(job: str) -> tuple[int | None, int]:
    """Exit code (negative for a signal) and number of restarts of an ended job, as scontrol tells them."""
    try:
        text = call("scontrol", "show", "job", "--oneliner", job)
    except SlurmUnreachableError:
        raise
    except RuntimeError:  # forgotten between two questions
        return None, 0
    code = re.search(r"\bExitCode=(\d+):(\d+)", text)
    restarts = re.search(r"\bRestarts=(\d+)", text)
    return _code(code[1], code[2]) if code else None, int(restarts[1]) if restarts else 0


def _code(code: str, number: str) -> int:
    """Slurm's `code:signal`; srun and shells say 128 + signal."""
    if int(number):
        return -int(number)
    return 128 - int(code) if 128 < int(code) < 160 else int(code)


def accounted(jobs: Sequence[str]) -> dict[str, Row]:
    """What sacct tells: also of jobs that ended long ago. Raises: RuntimeError where accounting is off."""
    fields = "--format=JobID,State,ExitCode"
    text = call("sacct", "--noheader", "--parsable2", "--allocations", fields, f"--jobs={','.join(jobs)}")
    rows = {}
    for line in text.splitlines():
        job, state, code = line.strip().split("|")
        if job in jobs:
            word, _, detail = state.partition(" ")  # "CANCELLED by 1000"
            number, _, signal = code.partition(":")
            rows[job] = Row(job, word, detail, _code(number, signal or "0"))
    return rows


def mine() -> dict[str, str]:
    """{job: comment} of this user's jobs in the queue."""
    text = call("squeue", "--noheader", "--states=all", "--array", "--me", "--format=%i|%k")
    return dict(line.strip().split("|", 1) for line in text.splitlines() if "|" in line)


def cancel(jobs: Sequence[str], signal: str = "") -> None:
    """scancel; jobs that are over or forgotten are no fault: of such a one, `--quiet` exits with 1 and says nothing."""
    for part in _chunks(list(jobs)):
        try:
            call("scancel", "--quiet", *([f"--signal={signal}"] if signal else []), *part)
        except SlurmUnreachableError:
            raise
        except RuntimeError as error:
            if not re.search(
                r"invalid job id|already completing|completed|not running|: exit code 1$",
                str(error),
                re.IGNORECASE,
            ):
                raise


def _chunks(jobs: Sequence[str]) -> list[Sequence[str]]:
    return [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
