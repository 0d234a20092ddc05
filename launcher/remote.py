"""The node's side of executors whose jobs run elsewhere: start a worker, see how it ends, leave that in the folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from launcher import folder as files
from launcher import processes
from launcher.base import Kind, State, Status
from launcher.failures import kind_of_exit, more_kills, oom_kills
from launcher.worker import REFUSED

EXIT = "exit.json"
"""How a worker ended that left no result: attempt, code, kind, reason."""
STALE = 30.0
"""Seconds without a heartbeat after which a worker on another host counts as dead, where locks do not tell."""


class RemoteWorker(subprocess.Popen[bytes]):
    """A worker as our child; all that it starts carries its tag."""

    tag = ""


def start_worker(folder: Path, attempt: int, ignore: tuple[int, ...] = ()) -> RemoteWorker:
    """Start the worker of a folder's attempt as a child; its environment is the job's before anything is imported.

    ignore: signals that are meant for us and must not end it.
    """
    spec, tag = files.read_job(folder), uuid.uuid4().hex
    env = {**os.environ, **spec.env, processes.TAG: tag}
    if spec.gpus == 0:
        env["CUDA_VISIBLE_DEVICES"] = ""

    def before() -> None:  # an ignored signal stays ignored through exec
        for number in ignore:
            signal.signal(number, signal.SIG_IGN)

    command = [sys.executable, "-m", "launcher.worker", str(folder), "--attempt", str(attempt)]
    worker = RemoteWorker(command, stdin=subprocess.DEVNULL, env=env, preexec_fn=before if ignore else None)
    worker.tag = tag
    return worker


def run_worker(
    folder: Path, attempt: int, worker: RemoteWorker, tell: Callable[[], bool] = lambda: True
) -> int:
    """Wait for the worker's end, end what it left; tell it in the folder if it could not. Returns its exit code.

    tell: asked after the end; False keeps silent: whoever ended it will say why.
    """
    before = oom_kills()
    code = worker.wait()
    processes.kill_tree(0, None, worker.tag)  # what it left, killed or out of time
    if tell() and files.read_result(folder, attempt) is None:
        kind, reason = kind_of_exit(code, more_kills(before))
        if code == REFUSED:
            kind, reason = Kind.REFUSED, "the folder was at another attempt, or run by another process"
        tell_exit(folder, attempt, code, kind, reason)
    return code


def tell_exit(folder: Path, attempt: int, code: int, kind: Kind, reason: str) -> None:
    """Write how an attempt without a result ended."""
    words = {
        "attempt": attempt,
        "code": code,
        "kind": str(kind),
        "reason": reason,
        "host": socket.gethostname(),
    }
    files.write_atomic(folder / EXIT, json.dumps(words) + "\n")


def forget_exit(folder: Path) -> None:
    """Before an attempt starts: what was told of an earlier one is over."""
    (folder / EXIT).unlink(missing_ok=True)


def told(folder: Path, attempt: int) -> Status | None:
    """What the folder says about an attempt, the words of whoever watched the worker included."""
    status = files.status_of(folder, attempt)
    if status is not None:
        return status
    end: Mapping[str, Any] = files.read_json(folder / EXIT) or {}
    if end.get("attempt") != attempt:
        return None
    lease = files.read_lease(folder, attempt)
    gpus = tuple(lease.get("gpus", ()))
    return Status(State.EXITED, end["code"], end["reason"], lease.get("started"), gpus, Kind(end["kind"]))


def beats(folder: Path) -> bool:
    """Whether a worker shows signs of life that need no locks; clocks of the hosts may differ by a few seconds."""
    age = files.heartbeat_age(folder)
    return age is not None and age < STALE


def wait_for_predecessor(folder: Path, attempt: int, patience: float = 4 * STALE) -> None:
    """After a restart elsewhere: let a worker of this attempt that is cut off from its scheduler end or fall silent.

    Needed where locks do not reach across hosts (some NFS); a heartbeat that goes on after `patience` is left to the
    lease.
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and _lives_elsewhere(folder, attempt):
        time.sleep(1.0)


def _lives_elsewhere(folder: Path, attempt: int) -> bool:
    lease = files.read_lease(folder, attempt)
    if not lease:
        return False
    if lease.get("host") == socket.gethostname():
        return files.is_held(folder)
    return files.read_result(folder, attempt) is None and beats(folder)
