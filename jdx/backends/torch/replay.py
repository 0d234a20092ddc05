"""Training steps as CUDA graphs: recorded once, then started with one call instead of some thousand.

A step of a few samples keeps a GPU busy for less time than Python takes to start its kernels. What a step reads that
changes (samples, rates) is copied into the tensors that the graph was recorded with; everything else it changes in
place. The graph has a stream of its own, on which the first steps run without one: their kernels are chosen, compiled
and loaded, which cannot be recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache

import torch
from torch import Tensor

from jdx.backends.torch.batches import Pass
from jdx.errors import told

log = logging.getLogger(__name__)

FIRST_STEPS = 3
MOST_PASSES = 4
"""Passes of a step that is recorded: with more, samples are many, and the graph would be large."""


@dataclass(frozen=True)
class Feed:
    """What changes from step to step: samples, the optimiser's numbers and the averages' shares."""

    passes: tuple[Pass, ...]
    rates: Tensor
    shares: Tensor

    def to(self, device: torch.device) -> Feed:
        """On the device, without waiting."""
        rates, shares = (x.to(device, non_blocking=True) for x in (self.rates, self.shares))
        return Feed(tuple(one.to(device) for one in self.passes), rates, shares)

    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        return [*(getattr(one, f.name) for one in self.passes for f in fields(Pass)), self.rates, self.shares]


Learning = tuple[str, ...]
"""The parts that a step changes."""
Advance = Callable[[Feed, Learning], None]
"""The device's share of a step, from what has changed; the feed is on the device."""


class Recorded:
    """Runs steps, from the fourth of a kind on as a CUDA graph; where none can be recorded, as they are."""

    def __init__(self, advance: Advance, device: torch.device):
        self._advance, self._device = advance, device
        self._stream = torch.cuda.current_stream(device)
        self._learning: Learning = ()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._fixed: Feed | None = None
        self._seen, self._able = 0, True

    def __call__(self, feed: Feed, learning: Learning) -> None:
        """One step; where other parts learn than before, it is recorded anew."""
        if learning != self._learning:
            self.forget()
            self._learning, self._seen = learning, 0
        self._seen += 1
        if self._able and self._graph is None and self._seen > FIRST_STEPS:
            self._record(feed)
        if self._graph is None or self._fixed is None:
            self._advance(feed.to(self._device), learning)
            return
        for fixed, new in zip(self._fixed.tensors(), feed.tensors(), strict=True):
            fixed.copy_(new, non_blocking=True)
        self._graph.replay()

    def forget(self) -> None:
        """Give the graph and its memory back."""
        if self._graph is not None:
            torch.cuda.synchronize(self._device)
            self._graph.reset()
        self._graph = self._fixed = None
        torch.cuda.empty_cache()

    def _record(self, feed: Feed) -> None:
        """Record a step, which changes nothing yet. The drawing thread goes on meanwhile and may allocate."""
        fixed, graph = feed.to(self._device), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._advance(fixed, self._learning)
        except RuntimeError as error:  # a lack of memory too: the graph's is beside the steps'
            log.warning(
                "a training step could not be recorded as a CUDA graph, going on without one: %s", told(error)
            )
            self._able = False
            return
        self._graph, self._fixed = graph, fixed


@contextmanager
def recorded(advance: Advance, device: torch.device) -> Iterator[Advance]:
    """Steps on a stream of their own, as CUDA graphs where that can be done, until the block ends."""
    outer, stream = torch.cuda.current_stream(device), _stream(device)
    stream.wait_stream(outer)
    try:
        with torch.cuda.stream(stream):
            steps = Recorded(advance, device)
            try:
                yield steps
            finally:
                steps.forget()
    finally:  # after an error too: what the last steps write to is about to be given to others
        outer.wait_stream(stream)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all trainings: cuBLAS keeps workspaces (of 32 MiB on Hopper, for each thread) of every stream it met."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


@contextmanager
def as_they_are(advance: Advance, device: torch.device) -> Iterator[Advance]:
    """The same without graphs."""
    yield lambda feed, learning: advance(feed.to(device), learning)
