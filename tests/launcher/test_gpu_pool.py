"""The local pool passes the kit, on CPU slots; what only it promises is below."""

from __future__ import annotations

from pathlib import Path

from launcher.base import Executor
from launcher.gpu_pool import GpuPool
from launcher.settings import PoolSettings
from tests.launcher.kit import ExecutorKit


def make(root: Path, slots: int) -> Executor:
    """A pool with leases of its own."""
    return GpuPool(PoolSettings(leases=str(root / "leases"), cpu_slots=slots))


class TestGpuPool(ExecutorKit):
    factory = "tests.launcher.test_gpu_pool:make"
