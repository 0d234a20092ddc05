"""The node's side of a job under Ray: an actor that stands for it in the cluster, and a guardian that runs its worker.

The guardian (`python -m launcher.ray_job`) leaves the actor's process tree, holds one end of a socket, and ends the
worker with all it started when the other end closes: whichever way Ray loses the actor, no job goes on unknown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from launcher import processes, remote

LINGER = 2.0
"""Seconds that an actor stays after its job, so that whoever waits gets the answer."""
EVERY = 0.1
"""Seconds between two looks at the worker."""


class RayJob:
    """One attempt of one job; made a detached, named actor by the executor. Ends itself when the job has ended."""

    def __init__(self, folder: str, attempt: int, env: Mapping[str, str], cwd: str):
        """env: of the controller; the cards are those that Ray gave to this actor."""
        self.code: int | None = None
        self.link, other = socket.socketpair()
        command = [sys.executable, "-m", "launcher.ray_job", folder, str(attempt), str(other.fileno())]
        cards = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
        # Waits for the first of two processes only: the guardian itself has left by then.
        subprocess.run(
            command,
            pass_fds=[other.fileno()],
            env={**env, **cards},
            cwd=cwd,
            check=True,
            start_new_session=True,
        )
        other.close()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        words = b""
        with suppress(OSError):
            while data := self.link.recv(64):
                words += data
        self.code = int(words) if words else -signal.SIGKILL
        time.sleep(LINGER)
        os._exit(0)

    async def ready(self) -> str:
        """Name of the host, once the actor is up."""
        return socket.gethostname()

    async def ended(self) -> int:
        """Exit code of the worker, once it has one."""
        while self.code is None:
            await asyncio.sleep(EVERY)
        return self.code

    async def cancel(self, grace: float) -> int:
        """SIGTERM, then SIGKILL for the whole tree; returns when it is gone."""
        with suppress(OSError):
            self.link.sendall(json.dumps(grace).encode() + b"\n")
        return await self.ended()


def guard(folder: Path, attempt: int, link: socket.socket) -> int:
    """Run the worker to its end; end it when the actor says so (its message is the grace in seconds) or is gone."""
    remote.wait_for_predecessor(folder, attempt)
    remote.forget_exit(folder)
    worker = remote.start_worker(folder, attempt)
    watch = _Watch(worker, link)
    watch.start()
    return remote.run_worker(folder, attempt, worker, watch.settle)


class _Watch(threading.Thread):
    """Listens to the actor, and ends the worker's whole tree when told to or when the actor is gone."""

    def __init__(self, worker: remote.RemoteWorker, link: socket.socket):
        super().__init__(daemon=True)
        self.pid, self.tag, self.link, self.born = worker.pid, worker.tag, link, processes.born(worker.pid)
        self.ending = threading.Event()
        self.orphaned = False

    def run(self) -> None:
        select.select([self.link], [], [])
        message = b""
        with suppress(OSError):
            message = self.link.recv(64)
        self.orphaned = not message
        self.ending.set()
        if message:
            processes.ask(self.pid, self.born)
            deadline = time.monotonic() + float(message.split()[0])
            while processes.is_alive(self.pid, self.born) and time.monotonic() < deadline:
                time.sleep(EVERY)
        processes.kill_tree(self.pid, self.born, self.tag)

    def settle(self) -> bool:
        """Once the worker has ended: wait for its tree's end; False when Ray lost the job and it did not fail."""
        if self.ending.is_set():
            self.join()
        return not self.orphaned


def main(arguments: list[str] | None = None) -> int:
    """The guardian's command."""
    parser = argparse.ArgumentParser(prog="python -m launcher.ray_job", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("attempt", type=int)
    parser.add_argument("link", type=int, help="file descriptor of the socket to the actor")
    args = parser.parse_args(arguments)
    if os.fork():  # Ray kills the children of an actor that it ends; we have to outlive it for a moment
        os._exit(0)
    with socket.socket(fileno=args.link) as link:
        os.set_inheritable(args.link, False)
        code = guard(args.folder, args.attempt, link)
        with suppress(OSError):
            link.sendall(str(code).encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
