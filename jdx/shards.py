"""One trial on several devices: each makes a share of the styles, and the store brings them together.

The first device is this process's own; every other one gets a process (`python -m jdx.shard`) that runs the stages
from encoding to drawing for its styles and publishes them in the store. Then the trial goes on as ever and finds
everything made. A style's result does not depend on its company, so neither does it on the number of devices.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jdx import ROOT
from jdx.device_list import index_of
from jdx.errors import BackendError, NotMadeError
from jdx.schema import changed, plain
from jdx.stages.bench import Bench

log = logging.getLogger(__name__)

STDERR = 2
SURROUNDINGS = ("CUDA_", "NVIDIA_", "HF_", "JDX_")
"""Variables that say which cards, models and settings a process finds; it is not kept when they change."""
Seeds = Mapping[str, Mapping[str, int]]
Failed = dict[str, tuple[int, str]]
"""{style: (step, reason)} of styles whose training stopped."""
Make = Callable[[Bench, Sequence[str], Any], Failed]
"""Runs the stages from encoding to drawing for some styles of a bench."""


class Crew:
    """The processes of the further devices, started when there is something to share. Use as a context manager.

    They stay for this process's next trial, with the model and its kernels in memory, unless something failed.
    """

    def __init__(self, devices: Sequence[str]):
        self._devices = devices
        self._shards: list[_Shard] = []

    def __enter__(self) -> Crew:
        dismiss(but=self._devices[1:])
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            _idle.extend(self._shards)
            return
        _end(self._shards)

    def make(self, bench: Bench, styles: Sequence[str], seeds: Seeds, make: Make) -> Failed:
        """Have everything made that the store lacks for some styles of a bench; returns those that stopped.

        Raises: BackendError when a device's process fails; what the others have published is kept.
        """
        if len(self._devices) < 2:
            return {}
        todo = [style for style in styles if not _is_made(bench, style, seeds, make)]
        if len(todo) < 2:
            return {}
        own, *others = shares(todo, len(self._devices))
        self._hire(len(others))  # first: while they import their libraries, so does this process
        bench.look_ahead()  # here, once and before any device is at work; those only do what they are told
        for shard, share in zip(self._shards, others, strict=False):
            shard.order(bench, seeds, share)
        ours = _beside(bench)
        answers = [_Answer(make(ours, own, seeds), ours.made, [])]
        answers += [shard.answer() for shard, _ in zip(self._shards, others, strict=False)]
        failed: Failed = {}
        for answer in answers:
            failed |= answer.failed
            _count(bench, answer)
        return failed

    def _hire(self, count: int) -> None:
        for device in self._devices[len(self._shards) + 1 : count + 1]:
            self._shards.append(_idle_one(device) or _Shard(device))


_idle: list[_Shard] = []
"""Processes that this process's last trial has left, for the next one."""


def _idle_one(device: str) -> _Shard | None:
    """The idle process of a device; one that has ended or was started in other surroundings is put away."""
    shard = next((one for one in _idle if one.device == device), None)
    if shard is None:
        return None
    _idle.remove(shard)
    if shard.is_ready():
        return shard
    shard.end()
    return None


def idle_processes() -> list[int]:
    """Process ids of what waits for this process's next trial."""
    return [shard.pid for shard in _idle]


@atexit.register
def dismiss(but: Sequence[str] = ()) -> None:
    """End the processes that wait for the next trial, those of some devices excepted."""
    left = [shard for shard in _idle if shard.device not in but]
    _idle[:] = [shard for shard in _idle if shard.device in but]
    _end(left)


def _end(shards: Sequence[_Shard]) -> None:
    """All hear of it before one is waited for: Ctrl-C may come once more meanwhile."""
    for shard in shards:
        shard.let_go()
    for shard in shards:
        shard.end()


def shares(styles: Sequence[str], count: int) -> list[list[str]]:
    """The styles dealt out to `count` devices, or fewer if there are fewer styles."""
    return [list(styles[start::count]) for start in range(min(count, len(styles)))]


def _beside(bench: Bench) -> Bench:
    """The same tools with a tally of its own; what it loads for itself is its own too."""
    return replace(bench, made={}, kept={})


def _is_made(bench: Bench, style: str, seeds: Seeds, make: Make) -> bool:
    try:
        make(replace(_beside(bench), dry=True), [style], seeds)
    except NotMadeError:
        return False
    return True


@dataclass
class _Answer:
    failed: Failed
    made: Mapping[str, Mapping[str, int]]
    losses: Sequence[tuple[int, Mapping[str, float]]]


def _count(bench: Bench, answer: _Answer) -> None:
    """What a share made is new, although the trial will find it in the store; its losses go to the tracker."""
    for stage, tally in answer.made.items():
        bench.count(stage, tally["made"], -tally["made"])
    for step, losses in answer.losses:
        bench.tracker.log_losses(step, losses)


class _Shard:
    """The process of one device; orders and answers go through a socket, with our stderr for what it has to say."""

    def __init__(self, device: str):
        self.device = device
        self._surroundings = _surroundings()
        self._link, theirs = socket.socketpair()
        for end in (self._link, theirs):
            end.settimeout(None)  # whatever the program's default is: a share takes hours
        self._answers = self._link.makefile(encoding="utf-8")
        env = dict(os.environ)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), str(ROOT)]))
        if device.startswith("cuda"):
            env["CUDA_VISIBLE_DEVICES"] = _visible(device)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jdx.shard", str(theirs.fileno())],
                env=env,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is for the trial, which then ends its processes. Not only a process group of its own: in the
                # background a terminal with `stty tostop` stops who writes to it.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def is_ready(self) -> bool:
        """Whether it can take a trial's order: it lives, and a process started now would be no other."""
        return self._process.poll() is None and self._surroundings == _surroundings()

    def order(self, bench: Bench, seeds: Seeds, styles: Sequence[str]) -> None:
        import torch

        config = bench.config
        device = "cuda" if self.device.startswith("cuda") else self.device
        # As many threads as here: on a CPU their number decides how sums are rounded.
        threads = torch.get_num_threads()
        dtype = bench.backend.describe()["dtype"]  # cards may differ in what auto means, results must not
        backend = changed(config.backend, device=device, devices=[], dtype=dtype, threads=threads)
        tracker = changed(config.tracker, name="none")
        sampler = changed(config.sampler, seeds=None)  # read already; the file may be another one by now
        order = {
            "folder": os.getcwd(),  # of relative paths; it may be another one than when the process was started
            "config": plain(changed(config, backend=backend, tracker=tracker, sampler=sampler, quiet=True)),
            "seeds": seeds,
            "fixed_seeds": bench.fixed_seeds,
            "styles": list(styles),
        }
        log.info("%s makes %s", self.device, ", ".join(styles))
        data = json.dumps(order).encode() + b"\n"
        try:
            sent = socket.send_fds(self._link, [data], [STDERR])
            self._link.sendall(data[sent:])
        except ConnectionError:
            log.debug("%s has ended: told when its answer is asked for, after our own share", self.device)

    def answer(self) -> _Answer:
        try:
            line = self._answers.readline()
        except ConnectionError:
            line = ""
        if not line.endswith("\n"):
            raise self._death()
        answer = json.loads(line)
        if "error" in answer:
            raise BackendError(f"{self.device}: {answer['error']}")
        failed = {style: (int(step), str(reason)) for style, (step, reason) in answer["failed"].items()}
        return _Answer(failed, answer["made"], answer["losses"])

    def _death(self) -> BackendError:
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return BackendError(
            f"the process of {self.device} ended by {how}; what it had finished is kept. With "
            "backend.devices=[] one device makes all styles."
        )

    def let_go(self) -> None:
        """Tell it to end, also in the middle of its work, since nobody waits for it."""
        self._answers.close()
        self._link.close()
        self._process.terminate()

    def end(self) -> None:
        """Let go of it, and return when it has ended."""
        self.let_go()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _surroundings() -> dict[str, str]:
    """What a further device's process takes over from this one when it starts.

    Not all variables: libraries set some while they are imported, and a tracker other ones for every run.
    """
    return {name: value for name, value in os.environ.items() if name.startswith(SURROUNDINGS)}


def _visible(device: str) -> str:
    """What CUDA_VISIBLE_DEVICES says for one of the devices that this process sees."""
    index = index_of(device)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[index].strip() if visible else str(index)
