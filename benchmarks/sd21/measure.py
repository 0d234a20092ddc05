"""Clocks, rows and where they were measured."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import torch

GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One number: what of which subject, with its unit and how it came about."""

    subject: str
    what: str
    value: float
    unit: str
    note: str = ""
    gib: float | None = None  # most memory that tensors took, see `peak`


@dataclass
class Rows:
    """The rows of one process; each is printed at once and kept in a file, so that a stopped run has told its part."""

    file: Path
    rows: list[Row] = field(default_factory=list)

    def add(
        self, subject: str, what: str, value: float, unit: str, note: str = "", gib: float | None = None
    ) -> None:
        """Keep one number."""
        row = Row(subject, what, value, unit, note, gib)
        self.rows.append(row)
        memory = "" if gib is None else f"  {gib:.1f} GiB"
        print(f"{subject}: {what}: {value:.4g} {unit}{memory}  {note}", flush=True)
        record = {"environment": environment(), "rows": [asdict(row) for row in self.rows]}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(record, indent=1))


def environment() -> dict[str, str]:
    """Device, versions and date of a measurement."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "devices": str(torch.cuda.device_count() if cuda else 0),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "diffusers": version("diffusers"),
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def wait() -> None:
    """Until the GPU has done everything."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object], times: int = 3, warm_up: int = 1) -> float:
    """Median seconds of `work`, the device awaited."""
    for _ in range(warm_up):
        work()
    taken = []
    for _ in range(times):
        wait()
        start = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


@contextmanager
def peak() -> Iterator[list[float]]:
    """The most memory in GiB that tensors took inside, in the list afterwards.

    What a CUDA graph keeps for intermediate results counts only while it is recorded: they are no tensors afterwards.
    """
    found: list[float] = []
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield found
    found.append(torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else 0.0)


def median_rate(clocks: Iterable[Sequence[tuple[float, float]]]) -> float:
    """Median of the rates between neighbours of (seconds, count so far), over several such clocks."""
    pairs = [pair for stamps in clocks for pair in pairwise(stamps)]
    return statistics.median((n1 - n0) / (t1 - t0) for (t0, n0), (t1, n1) in pairs)


def matmul_roof(device: torch.device) -> float:
    """TFLOP/s of a bfloat16 product of 8,192 × 8,192 matrices."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: a @ b, times=30, warm_up=5) / 1e12
