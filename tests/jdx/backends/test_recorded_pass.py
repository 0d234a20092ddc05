"""Passes as CUDA graphs: when they are recorded, that new numbers reach them, and what happens where they cannot be.

A stand-in for CUDA's graphs, without a GPU: on replay it does the work again on the tensors that were there when it was
recorded, with the attention processors of that time, and writes over its results.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jdx.backends.base import ModelSpec, StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.backends.torch import inference, recorded_pass, styleid
from jdx.backends.torch.adapters import save_adapter
from jdx.backends.torch.attention import processors, self_attentions
from jdx.backends.torch.generate import generate
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.recorded_pass import FIRST, KEPT, STREAMS, Graph, RecordedPasses, Work
from jdx.progress import NullProgress
from tests.jdx.backends.adapters_for import random_adapter
from tests.jdx.backends.small_models import of_two_blocks
from tests.jdx.backends.styleid_jobs import pictures
from tests.jdx.backends.test_generate import assert_same, job, levels, style

__all__ = ["pictures"]  # a fixture
CPU = torch.device("cpu")


class Device:
    """Counts what is recorded, replayed and given back."""

    def __init__(self, unet: Any):
        self.unet, self.recorded, self.replayed, self.reset = unet, 0, 0, 0
        self.most = 99
        self.error = "operation not permitted when stream is capturing\nmore"

    def capture(self, work: Work, inputs: Sequence[Tensor], device: torch.device) -> Graph:
        if self.recorded == self.most:
            raise RuntimeError(self.error)
        self.recorded += 1
        fixed = [x.clone() for x in inputs]
        return Graph(Replay(self, work, fixed, outputs := list(work(fixed))), fixed, outputs)  # type: ignore[arg-type]


class Replay:
    """The same Python again, where a GPU would start kernels."""

    def __init__(self, device: Device, work: Work, inputs: list[Tensor], outputs: list[Tensor]):
        self.device, self.work, self.inputs, self.outputs = device, work, inputs, outputs
        attentions = self_attentions(device.unet) if device.unet is not None else {}
        self.processors = {path: layer.processor for path, layer in attentions.items()}

    def replay(self) -> None:
        self.device.replayed += 1
        with processors(self.device.unet, self.processors):
            for old, new in zip(self.outputs, list(self.work(self.inputs)), strict=True):
                old.copy_(new)

    def reset(self) -> None:
        self.device.reset += 1


@pytest.fixture
def small(tiny_sd: Path) -> Models:
    return of_two_blocks(load(ModelSpec(str(tiny_sd)), "cpu", torch.float32))


@pytest.fixture
def device(small: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    found = Device(small.unet)
    monkeypatch.setattr(recorded_pass, "capture", found.capture)
    monkeypatch.setattr(inference, "GRAPHS_ON", "cpu")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    yield found
    styleid.release()


def double(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [2 * x for x in inputs]


def test_the_third_pass_of_a_shape_is_recorded(device: Device) -> None:
    passes = RecordedPasses(CPU, able=True)
    for i in range(1, FIRST + 4):
        (found,) = passes(double, [torch.full((2,), float(i))])
        assert found.tolist() == [2 * i] * 2
        assert (device.recorded, device.replayed) == (int(i > FIRST), max(0, i - FIRST))
    passes(double, [torch.ones(3)])
    assert device.recorded == 1


@pytest.mark.parametrize("able", [True, False])
def test_passes_before_a_recording_choose_its_kernels(able: bool, device: Device) -> None:
    """One reference's keys for all contents, say, lie otherwise in memory than a recording's; without one they may."""
    met: list[tuple[int, ...]] = []

    def noted(inputs: Sequence[Tensor]) -> list[Tensor]:
        met.append(inputs[0].stride())
        return double(inputs)

    passes = RecordedPasses(CPU, able=able)
    for _ in range(FIRST + 1):
        passes(noted, [torch.ones(1, 2, 4).expand(3, -1, -1)])
    assert set(met) == {(8, 4, 1) if able else (0, 4, 1)}


def test_few_graphs_are_kept_and_all_given_back(device: Device) -> None:
    passes = RecordedPasses(CPU, able=True)
    for size in range(1, KEPT + 2):
        for _ in range(FIRST + 1):
            passes(double, [torch.ones(size)])
    assert (device.recorded, device.reset) == (KEPT + 1, 1)
    passes.forget()
    assert device.reset == KEPT + 1
    for _ in range(FIRST + 1):
        passes(double, [torch.ones(1)])
    assert device.recorded == KEPT + 1


@pytest.mark.parametrize(
    ("error", "told"),
    [("operation not permitted\nmore", "RuntimeError: operation not permitted"), ("", "RuntimeError")],
)
def test_what_cannot_be_recorded_runs_as_it_is(
    error: str, told: str, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    device.most, device.error = 0, error
    passes = RecordedPasses(CPU, able=True)
    with caplog.at_level(logging.WARNING):
        for i in range(FIRST + 3):
            assert passes(double, [torch.full((1,), float(i))])[0].item() == 2 * i
    (line,) = [record.message for record in caplog.records]
    assert line.endswith(f"going on without: {told}")


def test_after_one_that_cannot_be_recorded_earlier_ones_are_used(device: Device) -> None:
    device.most = 1
    passes = RecordedPasses(CPU, able=True)
    for size in (1, 2, 1):
        for _ in range(FIRST + 1):
            passes(double, [torch.ones(size)])
    assert (device.recorded, device.replayed) == (1, 1 + FIRST + 1)
    assert passes.lasting
    passes.forget()
    assert not passes.lasting


class Recorder:
    """PyTorch's side of recording, without a device. fails: recordings cannot be ended, and leave their stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.current, self.fails = object(), False
        self.streams: list[object] = []  # that were recorded on, in order
        for name in ("CUDAGraph", "graph", "stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "Stream", lambda _: object())
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self.current)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
        recorded_pass._idle.cache_clear()

    class CUDAGraph:
        def replay(self) -> None: ...

        def reset(self) -> None: ...

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph: object, *, stream: object, capture_error_mode: str) -> Iterator[None]:
        before, self.current = self.current, stream
        self.streams.append(stream)
        yield
        if self.fails:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.current = before


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    yield Recorder(monkeypatch)
    recorded_pass._idle.cache_clear()


def record(passes: RecordedPasses, *sizes: int) -> None:
    for size in sizes:
        for _ in range(FIRST + 1):
            passes(double, [torch.ones(size)])


def test_graphs_that_are_there_at_once_have_streams_of_their_own(recorder: Recorder) -> None:
    """A stream's cuBLAS workspace may be freed with the first of its graphs; streams are used again, for it may not."""
    two = [RecordedPasses(CPU, able=True) for _ in range(2)]
    for passes in two:
        record(passes, *range(1, KEPT + 1))
    assert len(set(recorder.streams)) == len(recorder.streams) == 2 * KEPT
    record(two[0], KEPT + 1)
    assert recorder.streams[-1] == recorder.streams[0]  # of the one that made room
    for _ in range(STREAMS):
        for passes in two:
            passes.forget()
        two = [RecordedPasses(CPU, able=True) for _ in range(2)]
        for passes in two:
            record(passes, *range(1, KEPT + 1))
    assert len(set(recorder.streams)) == 2 * KEPT


def test_a_recording_that_fails_leaves_neither_its_stream_nor_fewer(recorder: Recorder) -> None:
    recorder.fails, usual = True, recorder.current
    for _ in range(2 * STREAMS):
        record(RecordedPasses(CPU, able=True), 1)
        assert recorder.current is usual
    assert len(recorder.streams) == 2 * STREAMS
    assert len(set(recorder.streams)) == 1


def test_drawing_is_the_same(small: Models, device: Device, tmp_path: Path) -> None:
    """Two adapters, and batches of two sizes: merged weights are seen by the graphs of the first."""
    for name in ("a", "b"):
        adapter = random_adapter(small, rank=3, alpha=2.0, text_rank=0)
        save_adapter(tmp_path / name, adapter.unet, adapter.text_encoder, {})
    wanted = job(small, style("00", tmp_path / "a"), style("01", tmp_path / "b"), batch_size=2)
    results = []
    for graphs in (False, True):
        out = tmp_path / str(graphs)
        generate(replace(wanted, graphs=graphs), small, out, NullProgress(), lambda *_: None)
        results.append(levels(out))
        assert bool(device.replayed) is graphs
    assert_same(*results)
    assert device.recorded == device.reset == 2


@pytest.mark.parametrize("alike", [False, True], ids=["two references", "one reference"])
@pytest.mark.parametrize("most", [99, 1], ids=["all recorded", "inverting references only"])
def test_styleid_is_the_same(
    most: int, alike: bool, small: Models, device: Device, pictures: list[Path], tmp_path: Path
) -> None:
    """Two styles: what was lent to the first one's passes is not lent to the second's, nor kept for it.

    Where only some could be recorded, these go on with all that they were recorded with.
    """
    device.most = most
    references = tuple(pictures[4:]) if alike else tuple(pictures[3:])
    styles = [
        StyleStyliseJob(name, references, {f"{i}.png": (some[i], i % len(references)) for i in range(3)})
        for name, some in (("00", pictures[:3]), ("01", pictures[2:]))
    ]
    if most == 1:  # the second style inverts references of its own, in passes of the size of the first one's
        styles[1] = replace(styles[1], references=tuple(pictures[: len(references)]))
    spec = StyleIdSpec(tuple(self_attentions(small.unet)), 0.6, 1.5, FIRST + 3)
    results = []
    for graphs in (False, True):
        styleid.release()
        wanted = StyliseJob(small.spec, spec, 64, tuple(styles), 3, graphs=graphs)
        styleid.stylise(wanted, small, tmp_path / str(graphs), NullProgress(), lambda *_: None)
        results.append(levels(tmp_path / str(graphs)))
        assert bool(device.replayed) is graphs
    assert_same(*results)
    assert device.recorded == device.reset


def test_what_is_complete_is_handed_over_when_graphs_cannot_be_given_back(
    small: Models, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an error of the device itself, which is then told again at every turn."""
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    wanted = replace(job(small, style("00", None), style("01", None), batch_size=2), graphs=True)
    given: list[str] = []
    with pytest.raises(RuntimeError, match="device lost"):
        generate(wanted, small, tmp_path, NullProgress(), lambda name, _: given.append(name))
    assert given == ["00", "01"]


def lost(device: object) -> None:
    raise RuntimeError("device lost")
