"""Passes of drawing as CUDA graphs: recorded once for each shape, then started with one call.

Python takes some 50 ms to start the kernels of a UNet's pass, about as long as a good GPU takes for 25 rows; on a busy
host more. Weights are merged in place, so a graph serves every style of a job (training has its own, see `replay`).
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from jdx.errors import told

log = logging.getLogger(__name__)

Work = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Results from inputs, all of them on the device, without waiting for it."""
Shapes = tuple[tuple[torch.Size, torch.dtype], ...]

FIRST = 2
"""Passes of a shape that run as they are: their kernels are chosen, compiled and loaded, which cannot be recorded."""
KEPT = 2
"""Graphs that are kept, each with the memory of a pass of its own; the one used longest ago leaves first."""
STREAMS = 8
"""Graphs of a device that may be there at once: KEPT of each of a job's kinds of passes, two at most, and some more."""


@dataclass(frozen=True)
class Graph:
    """A recorded pass: what it reads, where its results will be, and the stream that is its own until its end."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: list[Tensor]
    stream: torch.cuda.Stream | None = None

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The pass on other numbers of the same shapes."""
        torch._foreach_copy_(self.inputs, list(inputs), non_blocking=True)
        self.graph.replay()
        return self.outputs


def capture(work: Work, inputs: Sequence[Tensor], device: torch.device) -> Graph:
    """Record one pass, which computes nothing yet. Other threads go on meanwhile and may allocate.

    Raises: RuntimeError where it cannot be recorded, torch.cuda.OutOfMemoryError among them.
    """
    idle = _idle(device)
    if not idle:
        raise RuntimeError(f"{STREAMS} recorded passes are there already")
    fixed, graph, stream = [x.clone() for x in inputs], torch.cuda.CUDAGraph(), idle.pop()
    try:
        with (
            torch.cuda.device(device),
            # PyTorch leaves the recording's stream behind when a recording cannot even be ended.
            torch.cuda.stream(torch.cuda.current_stream(device)),
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            outputs = list(work(fixed))
    except BaseException:
        graph.reset()  # and not whenever the error's last frame goes, when the stream may be another graph's
        idle.append(stream)
        raise
    return Graph(graph, fixed, outputs, stream)


@cache
def _idle(device: torch.device) -> list[torch.cuda.Stream]:
    """Streams that no graph has. cuBLAS's workspaces belong to streams, and graphs keep their addresses.

    Some releases of PyTorch free a stream's workspace with any graph that was recorded on it, so graphs may not share
    one; others keep it for good (32 MiB on Hopper), so streams are used again. All are made at once, since PyTorch
    deals its 32 out in turn.
    """
    return [torch.cuda.Stream(device) for _ in range(STREAMS)]  # type: ignore[no-untyped-call]


def _whole(x: Tensor) -> Tensor:
    """Each number in a place of its own, as in a recording: kernels are chosen by that, and have to be before it."""
    return x.contiguous() if 0 in x.stride() else x


class RecordedPasses:
    """One kind of work, as graphs from its third pass of a shape on; where none can be recorded, as it is.

    able: whether graphs are made from now on. Results are overwritten by the next pass.
    """

    def __init__(self, device: torch.device, *, able: bool):
        self.able, self._device = able, device
        self._graphs: OrderedDict[Shapes, Graph] = OrderedDict()
        self._seen: Counter[Shapes] = Counter()

    @property
    def lasting(self) -> bool:
        """Whether there are graphs, or may be: after one that could not be recorded, earlier ones are still used."""
        return self.able or bool(self._graphs)

    def __call__(self, work: Work, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """`work` of the inputs, which has to be the same for the same shapes."""
        shapes = tuple((x.shape, x.dtype) for x in inputs)
        if shapes in self._graphs:
            self._graphs.move_to_end(shapes)
            return self._graphs[shapes](inputs)
        self._seen[shapes] += 1
        if self.able and self._seen[shapes] > FIRST:
            self._record(shapes, work, inputs)
        if shapes in self._graphs:
            return self._graphs[shapes](inputs)
        return work([_whole(x) for x in inputs] if self.able else inputs)

    def _record(self, shapes: Shapes, work: Work, inputs: Sequence[Tensor]) -> None:
        while len(self._graphs) >= KEPT:
            self._reset(self._graphs.popitem(last=False)[1])
        try:
            self._graphs[shapes] = capture(work, inputs, self._device)
        except RuntimeError as error:  # a lack of memory too: the graph's is beside the plain passes'
            self.able = False
            log.warning("a pass could not be recorded as a CUDA graph, going on without: %s", told(error))

    def forget(self) -> None:
        """Give all graphs and their memory back, and make no others."""
        self.able = False
        while self._graphs:
            self._reset(self._graphs.popitem()[1])

    def _reset(self, graph: Graph) -> None:
        torch.cuda.synchronize(self._device)
        graph.graph.reset()
        if graph.stream is not None:
            _idle(self._device).append(graph.stream)
