"""Worker processes of the local pool: started with their cards, fed through a socket, ended with all they started."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher import failures, processes
from launcher.base import JobSpec, Kind
from launcher.folder import LOG, Lease
from launcher.places import Hold

ROOT = Path(__file__).resolve().parent.parent


@dataclass(eq=False)
class Worker:
    """A process that runs one job after another on the same cards with the same environment."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    tag: str
    key: object
    holds: Sequence[Hold]
    gpus: tuple[str, ...]
    oom_kills: failures.Kills
    born: float | None = None
    jobs: int = 0
    first_rss: int | None = None
    rss: int = 0
    idle_since: float = field(default_factory=time.monotonic)
    job: str | None = None
    """Id of the job in hand."""

    @staticmethod
    def start(
        spec: JobSpec, env: Mapping[str, str], key: object, holds: Sequence[Hold], gpus: tuple[str, ...]
    ) -> Worker:
        """Start the process; until its first job is there, what it says goes to that job's log."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tag = uuid.uuid4().hex
        fds = [hold.lease.fd for hold in holds]
        command = [sys.executable, "-m", "launcher.worker", "--serve", str(theirs.fileno())]
        command += ["--hold", *map(str, fds)] if fds else []
        with theirs, (spec.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                command,
                env=with_path({**env, processes.TAG: tag}),
                pass_fds=[theirs.fileno(), *fds],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for hold in holds:
            hold.lease.close()  # the worker's copy keeps the lock: the card is free when the worker is gone
        born = processes.born(process.pid)
        return Worker(process, ours, tag, key, holds, gpus, failures.oom_kills(process.pid), born)

    def note_group(self) -> None:
        """Follow a worker into another control group.

        One that is exiting is in the root group, as the kernel tells it (cgroup 1). So it is looked at after the read.
        """
        now = failures.oom_kills(self.process.pid)
        if now.keys() != self.oom_kills.keys() and not processes.is_exiting(self.process.pid):
            self.oom_kills = now

    def send(self, spec: JobSpec, lease: Lease) -> None:
        """Hand over a job and its lease. Raises: OSError when the worker is gone."""
        order = json.dumps({"folder": str(spec.folder.absolute()), "attempt": spec.attempt}).encode()
        socket.send_fds(self.link, [order], [lease.fd])
        self.job = spec.id

    def answer(self) -> dict[str, Any] | None:
        """What the worker has said since; None: nothing yet. Raises: EOFError when it is gone."""
        if not select.select([self.link], [], [], 0)[0]:
            return None
        try:
            data = self.link.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        answer: dict[str, Any] = json.loads(data)
        self.job = None
        self.jobs += 1
        self.idle_since = time.monotonic()
        self.rss = answer["rss"]
        if self.first_rss is None:
            self.first_rss = self.rss
        return answer

    @property
    def growth(self) -> float:
        """GiB since the end of its first job."""
        return (self.rss - (self.first_rss or self.rss)) / 2**30

    def end(self) -> int:
        """Kill it with all it started; returns its exit code."""
        if self.process.poll() is None:
            processes.kill_tree(self.process.pid, self.born, self.tag)
        return self.reap()

    def reap(self, patience: float = 10.0) -> int:
        """Collect a process that has ended or is about to, what it left running, and its holds."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        processes.kill_tree(0, None, self.tag)
        for hold in self.holds:
            with suppress(OSError):
                hold.release()
        self.link.close()
        return code

    def told_by_exit(self, code: int) -> tuple[Kind, str]:
        """Kind and words of an exit without a result."""
        return failures.kind_of_exit(code, failures.more_kills(self.oom_kills))


def with_path(env: dict[str, str]) -> dict[str, str]:
    """The environment of a worker: it finds this package from any folder, also a checkout that is not installed."""
    known = env.get("PYTHONPATH", "").split(os.pathsep)
    if "site-packages" not in ROOT.parts and str(ROOT) not in known:
        env["PYTHONPATH"] = os.pathsep.join([*filter(None, known), str(ROOT)])
    return env
