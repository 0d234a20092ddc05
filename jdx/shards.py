"""One trial on several devices: each makes a share of the styles, and the store brings them together.

The first device is this process's own; every other one gets a process (`python -m jdx.shard`) that runs the stages
from encoding to drawing for its styles and publishes them in the store. Then the trial goes on as ever and finds
everything made. A style's result does not depend on its company, so neither does it on the number of devices.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from jdx import ROOT
from jdx.device_list import index_of
from jdx.errors import BackendError, NotMadeError
from jdx.schema import changed, plain
from jdx.stages.bench import Bench

log = logging.getLogger(__name__)

Seeds = Mapping[str, Mapping[str, int]]
Failed = dict[str, tuple[int, str]]
"""{style: (step, reason)} of styles whose training stopped."""
Make = Callable[[Bench, Sequence[str], Any], Failed]
"""Runs the stages from encoding to drawing for some styles of a bench."""


class Crew:
    """The processes of the further devices, started when there is something to share. Use as a context manager."""

    def __init__(self, devices: Sequence[str]):
        self._devices = devices
        self._shards: list[_Shard] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for shard in self._shards:
            shard.end()

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
            self._shards.append(_Shard(device))


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
    """The process of one device; orders go in by its stdin, answers come back by a pipe of their own."""

    def __init__(self, device: str):
        self._device = device
        answers, theirs = os.pipe()
        self._answers: IO[str] = os.fdopen(answers, encoding="utf-8")
        env = dict(os.environ)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), str(ROOT)]))
        if device.startswith("cuda"):
            env["CUDA_VISIBLE_DEVICES"] = _visible(device)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jdx.shard", str(theirs)],
            env=env,
            stdin=subprocess.PIPE,
            pass_fds=[theirs],
            text=True,
            process_group=0,  # Ctrl-C is for the trial, which then ends its processes
        )
        os.close(theirs)

    def order(self, bench: Bench, seeds: Seeds, styles: Sequence[str]) -> None:
        import torch

        config = bench.config
        device = "cuda" if self._device.startswith("cuda") else self._device
        # As many threads as here: on a CPU their number decides how sums are rounded.
        threads = torch.get_num_threads()
        dtype = bench.backend.describe()["dtype"]  # cards may differ in what auto means, results must not
        backend = changed(config.backend, device=device, devices=[], dtype=dtype, threads=threads)
        tracker = changed(config.tracker, name="none")
        sampler = changed(config.sampler, seeds=None)  # read already; the file may be another one by now
        order = {
            "config": plain(changed(config, backend=backend, tracker=tracker, sampler=sampler, quiet=True)),
            "seeds": seeds,
            "fixed_seeds": bench.fixed_seeds,
            "styles": list(styles),
        }
        log.info("%s makes %s", self._device, ", ".join(styles))
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            log.debug("%s has ended: told when its answer is asked for, after our own share", self._device)

    def answer(self) -> _Answer:
        line = self._answers.readline()
        if not line.endswith("\n"):
            raise self._death()
        answer = json.loads(line)
        if "error" in answer:
            raise BackendError(f"{self._device}: {answer['error']}")
        failed = {style: (int(step), str(reason)) for style, (step, reason) in answer["failed"].items()}
        return _Answer(failed, answer["made"], answer["losses"])

    def _death(self) -> BackendError:
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return BackendError(
            f"the process of {self._device} ended by {how}; what it had finished is kept. With "
            "backend.devices=[] one device makes all styles."
        )

    def end(self) -> None:
        """Its stdin closes; one that still works is ended, since nobody waits for it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            log.debug("%s had ended before", self._device)
        self._answers.close()
        self._process.terminate()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _visible(device: str) -> str:
    """What CUDA_VISIBLE_DEVICES says for one of the devices that this process sees."""
    index = index_of(device)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[index].strip() if visible else str(index)
