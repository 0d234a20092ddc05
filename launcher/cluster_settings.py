"""Settings of the executors for clusters; `conf/launcher/slurm.yaml` and `ray.yaml` say the same values in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from launcher.settings import CONFIG

Word = Annotated[str, Field(min_length=1)]
Wait = Annotated[float, Field(ge=0, le=3600)]
Jobs = Annotated[int, Field(ge=1, le=1_000_000)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class SlurmSettings:
    """What to ask Slurm for. The words are sbatch's."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    gres: Word | None = None
    """Instead of whole cards by --gpus-per-node: `gpu:a100:{gpus}`, `shard:4`; {gpus} is what a job asks for."""
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of a job in GiB; None: the partition's default."""
    time_min: Annotated[int, Field(ge=1, le=525_600)] = 1440
    """Minutes until Slurm ends a job, and the most that is asked for a job with a timeout of its own."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job, as `module load cuda`."""
    options: Mapping[str, str | int | float | bool] = Field(default_factory=dict)
    """Any other options of sbatch, as `{exclude: node7}`; they replace what follows from the settings above."""
    max_jobs: Jobs = 100
    """Jobs of one sweep that are queued or running at once."""
    array_parallelism: Jobs = 256
    """Jobs of one array that run at once."""
    requeues: Annotated[int, Field(ge=0, le=1000)] = 10
    """How often a job that reached Slurm's time limit goes back into the queue and continues."""
    signal_seconds: Annotated[int, Field(ge=1, le=65535)] = 90
    """Warning before a time limit or a preemption."""
    grace_seconds: Wait = 20.0
    """From the warning's SIGTERM to the worker's SIGKILL."""
    poll_seconds: Wait = 5.0
    """Between two questions to slurmctld."""
    settle_seconds: Wait = 30.0
    """How long files of an ended job may take to appear on the controller's host (NFS caches names)."""
    unreachable_minutes: Annotated[int, Field(ge=1, le=43_200)] = 1440
    """How long slurmctld may be away before the sweep ends (its jobs go on)."""
    logs: Word | None = None
    """Folder, shared by all nodes, of Slurm's own output and submitit's files; None: `.slurm` beside the jobs."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class RaySettings:
    """Which Ray cluster, and what a job asks of it besides cores and cards."""

    address: Word = "auto"
    """HOST:PORT of the head node; auto: RAY_ADDRESS, or the cluster of which this machine is a node."""
    namespace: Word = "jdx"
    """Actors of one namespace find each other."""
    resources: Mapping[Word, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Custom resources of a job, as `{accelerator_type:A100: 0.01}`."""
    max_jobs: Jobs = 1000
    """Jobs of one sweep that wait or run at once."""
