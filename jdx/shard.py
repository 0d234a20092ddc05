"""The process of one further device (`python -m jdx.shard`, started by `shards.Crew`): makes a share of the styles."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from jdx import trial, validation
from jdx.backends.torch import models
from jdx.disk import told
from jdx.progress import Progress
from jdx.stages.judges import resting
from jdx.tracking.base import NoTracker

log = logging.getLogger(__name__)


Order = tuple[bytes, list[int]]
"""(a line of JSON, file descriptors that came with it)."""


class _Losses(NoTracker):
    """Keeps the losses for the tracker of the trial."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Mapping[str, float]]] = []

    def log_losses(self, step: int, losses: Mapping[str, float]) -> None:
        self.rows.append((step, dict(losses)))


def main() -> None:
    """The process of one device: a line in is an order, a line out its answer; the end of the socket is the end."""
    link = socket.socket(fileno=int(sys.argv[1]))
    link.set_inheritable(False)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    # Prompts that are too long were named by the trial's own process before it began.
    logging.getLogger("jdx.backends.torch.cuts").setLevel(logging.ERROR)
    orders: SimpleQueue[Order] = SimpleQueue()
    threading.Thread(target=_listen, args=(link, orders), name="orders", daemon=True).start()
    models.network_classes()  # imports, while the trial's process does the same
    while True:
        order, streams = orders.get()
        _speak_to(streams)
        try:
            answer = _obey(json.loads(order))
        except Exception as error:
            log.exception("a share of the styles failed")
            answer = {"error": f"{type(error).__name__}: {error}"}
        link.sendall(json.dumps(answer).encode() + b"\n")


def _listen(link: socket.socket, orders: SimpleQueue[Order]) -> None:
    """Hand on each order; end the process with the trial's, which may have been killed while this one worked.

    What was published and the last checkpoints are kept, as when this process is killed itself.
    """
    order: bytes = b""
    streams: list[int] = []
    with suppress(ConnectionError):
        while True:
            data, fds, _, _ = socket.recv_fds(link, 1 << 16, 1)
            if not data:
                break
            order, streams = order + data, [*streams, *fds]
            if order.endswith(b"\n"):
                orders.put((order, streams))
                order, streams = b"", []
    os._exit(0)


def _speak_to(streams: Sequence[int]) -> None:
    """What is said from now on goes where the trial speaks to: a later one may have another log."""
    for stream in streams:
        for fd in (1, 2):
            os.dup2(stream, fd)
        os.close(stream)


def _obey(order: Mapping[str, Any]) -> dict[str, Any]:
    os.chdir(order["folder"])
    config = validation.build(order["config"])
    store = {"store": Path(config.store.root).expanduser().absolute()}
    with told(store), Progress(quiet=True) as progress, resting():
        bench = trial.make_bench(config, trial.read_set(config), progress)
        losses = _Losses()
        bench = replace(bench, tracker=losses, fixed_seeds=order["fixed_seeds"])
        try:
            failed = trial.make_pictures(bench, order["styles"], order["seeds"])
        finally:
            bench.backend.close()
    return {"failed": failed, "made": bench.made, "losses": losses.rows}


if __name__ == "__main__":
    main()
