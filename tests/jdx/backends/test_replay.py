"""Recorded steps: when they are recorded, that new inputs reach them, and what happens where they cannot be.

A stand-in for CUDA's graphs remembers what was done while recording and does it again on the very same tensors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from jdx.backends.torch import replay
from jdx.backends.torch.batches import Pass
from jdx.backends.torch.replay import FIRST_STEPS, Feed, as_they_are, recorded

CPU = torch.device("cpu")


def feed(number: float) -> Feed:
    return Feed(
        (Pass(*(torch.full((2,), number) for _ in fields(Pass))),), torch.tensor([number]), torch.zeros(0)
    )


class Device:
    """Notes each step done, and does what a graph does: nothing while recording, everything again on replay."""

    def __init__(self) -> None:
        self.done: list[tuple[str, float, tuple[str, ...]]] = []
        self.graphs = 0
        self.fails = False
        self.recording = False
        self.outer = Stream()
        self._kept: tuple[Feed, tuple[str, ...]] | None = None

    def advance(self, some: Feed, learning: tuple[str, ...]) -> None:
        if self.recording:
            self._kept = some, learning
            if self.fails:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
        else:
            self._note("step", some, learning)

    def _note(self, how: str, some: Feed, learning: tuple[str, ...]) -> None:
        numbers = {x.flatten()[0].item() for x in some.tensors() if x.numel()}
        assert len(numbers) == 1, "one feed's tensors of several steps"
        self.done.append((how, numbers.pop(), learning))

    def replay(self) -> None:
        assert self._kept is not None
        self._note("replay", *self._kept)

    def reset(self) -> None:
        self._kept = None

    @contextmanager
    def graph(self, graph: object, *, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert (
            capture_error_mode == "thread_local"
        )  # or the drawing thread's pinned memory would end the recording
        self.recording, self.graphs = True, self.graphs + 1
        try:
            yield
        finally:
            self.recording = False


class Stream:
    """A stream without a device, which notes whom it waits for."""

    def __init__(self, *_: object) -> None:
        self.awaited: list[object] = []

    def wait_stream(self, other: object) -> None:
        self.awaited.append(other)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    device = Device()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: device)
    monkeypatch.setattr(torch.cuda, "graph", device.graph)
    device.outer = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    replay._stream.cache_clear()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: device.outer)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    yield device
    replay._stream.cache_clear()


def test_steps_are_recorded_after_the_first_ones_and_anew_where_other_parts_learn(device: Device) -> None:
    one, both = ("unet",), ("unet", "tokens")
    with recorded(device.advance, CPU) as step:
        for number in range(10):
            step(feed(number), both if number >= 6 else one)
    first, second = range(FIRST_STEPS), range(6, 6 + FIRST_STEPS)
    assert device.done == [
        ("step" if number in (*first, *second) else "replay", number, both if number >= 6 else one)
        for number in range(10)
    ]
    assert device.graphs == 2


def test_a_step_that_cannot_be_recorded_is_done_as_it_is(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    device.fails = True
    with caplog.at_level(logging.WARNING), recorded(device.advance, CPU) as step:
        for number in range(8):
            step(feed(number), ("unet",))
    assert [done[:2] for done in device.done] == [("step", number) for number in range(8)]
    assert device.graphs == 1
    (record,) = caplog.records
    assert record.message.endswith(
        "going on without one: RuntimeError: operation not permitted when stream is capturing"
    )


def test_whoever_comes_after_an_error_waits_for_the_last_steps(device: Device) -> None:
    """Their memory is freed then, and given to others on the outer stream."""

    def interrupted() -> None:
        with recorded(device.advance, CPU) as step:
            step(feed(0), ("unet",))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert len(device.outer.awaited) == 1


def test_trainings_share_a_stream(device: Device) -> None:
    """Or a worker's hundredth trial would have lost gigabytes to the workspaces of streams that are no more."""
    for _ in range(2):
        with recorded(device.advance, CPU) as step:
            step(feed(0), ("unet",))
    assert len(device.outer.awaited) == 2
    assert device.outer.awaited[0] is device.outer.awaited[1]


def test_without_graphs_every_step_is_done_as_it_is() -> None:
    device = Device()
    with as_they_are(device.advance, CPU) as step:
        for number in range(6):
            step(feed(number), ("unet",))
    assert [done[:2] for done in device.done] == [("step", number) for number in range(6)]


def test_a_feed_lists_all_its_tensors() -> None:
    some = feed(3.0)
    listed: list[Tensor] = [*(getattr(some.passes[0], f.name) for f in fields(Pass)), some.rates, some.shares]
    assert [id(x) for x in some.tensors()] == [id(x) for x in listed]
    assert len(fields(replay.Feed)) == 3
