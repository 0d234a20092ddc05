"""Settings of the executors, with types, ranges and units; `conf/launcher/*.yaml` says the same values in YAML."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
Seconds = Annotated[float, Field(gt=0, le=10_000_000)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class JobSettings:
    """What every trial asks for, wherever it runs: the settings that all of conf/launcher has in common."""

    gpus_per_trial: Annotated[int, Field(ge=0, le=64)] = 1
    """Cards of one job; 0 = a CPU slot."""
    jobs_per_gpu: Annotated[int, Field(ge=1, le=64)] = 1
    """Jobs that share one card; each gets that share of its memory."""
    cpus_per_trial: Annotated[int, Field(ge=1, le=4096)] = 1
    """Cores of one job; the local pool also takes them as its threads when there are more than one."""
    timeout: Seconds | None = None
    """Seconds that a job may run."""

    def __post_init__(self) -> None:
        if self.jobs_per_gpu > 1 and self.gpus_per_trial > 1:
            raise ValueError(
                f"jobs_per_gpu = {self.jobs_per_gpu} with gpus_per_trial = {self.gpus_per_trial}: "
                "a job has a share of one card, or several whole ones; set one of them to 1"
            )

    @property
    def gpus(self) -> float:
        """`JobSpec.gpus` of a trial."""
        return self.gpus_per_trial / self.jobs_per_gpu


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class PoolSettings:
    """The local pool of GPUs, or of CPU slots where there are none."""

    cpu_slots: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Jobs at once where there is no GPU; null = half the cores."""
    threads_per_job: Annotated[int, Field(ge=1, le=4096)] | None = None
    """OMP_NUM_THREADS of a job; null = cores / slots, or what the environment says."""
    leases: str | None = None
    """Folder of the machine-wide leases; null = JDX_LEASES, or jdx-leases in the folder of temporary files."""
    warm: bool = True
    """Workers go on to the next job, with imports and models loaded."""
    jobs_per_worker: Annotated[int, Field(ge=1)] = 50
    """Then a fresh worker takes over."""
    idle_seconds: Seconds = 60.0
    """A worker without a job gives its card back after so long."""
    memory_growth: Annotated[float, Field(gt=0)] = 4.0
    """GiB that a worker, or a process that it keeps, may grow after its first job before a fresh one takes over."""
    foreign_memory: Annotated[float, Field(ge=0)] = 1.0
    """GiB that processes outside of the leases may use of a card; with more it is left alone."""
    stale_after: Seconds = 30.0
    """Seconds without a heartbeat before a job is reported as standing still."""
    kill_after: Seconds = 300.0
    """Seconds without a heartbeat before it is killed."""
    probe_every: Seconds = 60.0
    """Seconds between two probes of a card that failed."""

    @property
    def is_here(self) -> bool:
        """Whether jobs run on the controller's machine, and so see its disks and cards."""
        return True
