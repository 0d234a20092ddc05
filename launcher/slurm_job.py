"""What submitit runs on the node for one job: the worker, and its way back into the queue when its place is wanted."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from submitit.core.utils import DelayedSubmission, UncompletedJobError

from launcher import folder as files
from launcher import processes, remote
from launcher.base import Kind

RESTARTED = "SLURM_RESTART_COUNT"
START = "slurm_start.json"
"""In a job's folder: which attempt this was last started for, and after how many restarts."""


class SlurmAttempt:
    """One attempt of one job. Slurm may start it several times: after a preemption, a time limit, a failed node."""

    def __init__(self, folder: Path, attempt: int, grace: float):
        """grace: seconds between SIGTERM and SIGKILL when the place is wanted."""
        self.folder, self.attempt, self.grace = folder, attempt, grace
        self.worker: remote.RemoteWorker | None = None

    def __call__(self) -> None:
        """Run the worker to its end and leave with its exit code."""
        restarts = int(os.environ.get(RESTARTED, "0"))
        if restarts:
            remote.wait_for_predecessor(self.folder, self.attempt)
            forget_cancelled(self.folder, self.attempt)
            print(f"started again by Slurm (restart {restarts})", flush=True)
        remote.forget_exit(self.folder)
        words = json.dumps({"attempt": self.attempt, "restarts": restarts})
        files.write_atomic(self.folder / START, words + "\n")
        # Slurm signals every process of the job; the warning before a preemption is for submitit in this one.
        self.worker = remote.start_worker(self.folder, self.attempt, ignore=(signal.SIGUSR2,))
        try:
            code = remote.run_worker(self.folder, self.attempt, self.worker)
        except UncompletedJobError as error:
            reason = f"reached Slurm's time limit: {error}"
            if files.read_result(self.folder, self.attempt) is None:
                remote.tell_exit(self.folder, self.attempt, 1, Kind.TIMEOUT, reason)
            raise
        sys.exit(code if code >= 0 else 128 - code)

    def checkpoint(self) -> DelayedSubmission | None:
        """Called by submitit when Slurm wants the place: end the worker, go on from the same folder.

        None, and so no return to the queue, when the job has its result already.
        """
        if self.worker is not None:
            self._end(self.worker)
        forget_cancelled(self.folder, self.attempt)
        if files.read_result(self.folder, self.attempt) is not None:
            return None
        return DelayedSubmission(SlurmAttempt(self.folder, self.attempt, self.grace))

    def _end(self, worker: remote.RemoteWorker) -> None:
        born = processes.born(worker.pid)
        processes.ask(worker.pid, born)
        # Not worker.wait(): this runs in a signal handler inside that very call, which holds its lock.
        deadline = time.monotonic() + self.grace
        while processes.is_alive(worker.pid, born) and time.monotonic() < deadline:
            time.sleep(0.05)
        processes.kill_tree(worker.pid, born, worker.tag)


def forget_cancelled(folder: Path, attempt: int) -> None:
    """Remove the result of a worker that Slurm's SIGTERM ended: the attempt goes on, it was not cancelled."""
    result = files.read_result(folder, attempt)
    if result is not None and (result.get("error") or {}).get("kind") == Kind.CANCELLED:
        (folder / files.RESULT).unlink(missing_ok=True)


def last_start(folder: Path, attempt: int) -> int:
    """After how many restarts by Slurm an attempt was last begun here; 0 also when it never was."""
    start = files.read_json(folder / START) or {}
    return int(start["restarts"]) if start.get("attempt") == attempt else 0
