"""How the tests are shared between processes: how many there are, and which files begin first.

A file is run by one process, so the longest ones must not be the last. LONGEST names them; a name that is gone is an
error, and the end of a parallel run tells which files have become long without standing here.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable

import psutil
import pytest

from jdx import ROOT

LONGEST = (
    "tests/launcher/test_slurm.py",
    "tests/launcher/test_ray.py",
    "tests/sweeps/test_sweeper.py",
    "tests/launcher/test_hydra_batches.py",
    "tests/jdx/test_trial_choices.py",
    "tests/jdx/backends/test_compile.py",
    "tests/jdx/test_select.py",
    "tests/jdx/stages/test_wiring.py",
    "tests/jdx/test_shards.py",
    "tests/faults/test_storage.py",
    "tests/sweeps/test_publish.py",
    "tests/jdx/backends/jittor/test_training.py",
    "tests/jdx/test_trial.py",
    "tests/faults/test_controller_dies.py",
    "tests/faults/test_workers.py",
    "tests/test_sd21_gpu.py",
    "tests/jdx/stages/test_wording.py",
    "tests/jdx/backends/jittor/test_nets.py",
    "tests/sweeps/test_controller.py",
    "tests/jdx/backends/jittor/test_jobs.py",
    "tests/data/test_mini_weights.py",
    "tests/jdx/backends/test_fused.py",
    "tests/jdx/backends/test_training_company.py",
    "tests/sweeps/test_warm.py",
    "tests/jdx/backends/jittor/test_trial.py",
    "tests/faults/test_many.py",
    "tests/jdx/test_configs.py",
    "tests/launcher/test_gpu_pool.py",
    "tests/jdx/test_trial_reuse.py",
    "tests/jdx/tracking/test_wandb_tracker.py",
    "tests/sweeps/test_conf.py",
    "tests/jdx/backends/jittor/test_jdiffusion.py",
    "tests/jdx/backends/test_inference.py",
)
"""The files of more than 20 s, longest first, as measured on four cores. Slurm's and Ray's mostly wait; Jittor's come a
little later than their length, when it is likely to be compiled."""

SHARE, WHOLE = 0.015, 100
"""A file with more than this share of all tests' time belongs to LONGEST; so many files are a run of them all."""

WORKERS_A_CORE, GIB_A_WORKER = 1.25, 2.5
"""A third of the time is waiting for Slurm, Ray and other processes, but importing and collecting all tests costs each
worker 15 s of a core; a worker's peak with what it starts."""


def in_order(items: list[pytest.Item]) -> None:
    """Sort tests so that the longest files come first; within a file and among the others nothing moves."""
    if gone := [name for name in LONGEST if not (ROOT / name).is_file()]:
        raise pytest.UsageError(f"tests/order.py names files that are gone: {', '.join(gone)}")
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONGEST)))


def workers() -> int:
    """Processes for `pytest -n auto`: more than cores, as far as the memory that is free now allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    room = int(psutil.virtual_memory().available / 2**30 / GIB_A_WORKER)
    return max(1, min(math.ceil(WORKERS_A_CORE * cores), room))


def become_long(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Files that took more than SHARE of all tests' time and are not among LONGEST, each with its seconds."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        seconds[report.nodeid.partition("::")[0]] += report.duration
    limit = SHARE * sum(seconds.values()) if len(seconds) > WHOLE else math.inf
    return [
        f"{name} ({took:.0f} s)"
        for name, took in sorted(seconds.items(), key=lambda item: -item[1])
        if took > limit and name not in LONGEST
    ]
