"""A style's training state on disk, read and written with NumPy; the files are the torch backend's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from jdx.backends.jittor.worker.jobs.pictures import Floats
from jdx.backends.jittor.worker.nets.adapters import Adapter, write_adapter
from jdx.backends.state_files import HEADER, LOSSES, STATE, WINDOW, LossLog, header, published
from jdx.files import write_bytes


@dataclass(frozen=True)
class AdapterState:
    """One adapter after `step` steps, at its true rank.

    vectors: {"PART.param" | "PART.m" | "PART.v" | "PART.ema": (entries,)}, the last where there is a running average;
    layout: {part: digest of what it is made of}.
    """

    step: int
    vectors: Mapping[str, Floats]
    layout: Mapping[str, str]
    losses: LossLog = field(default_factory=LossLog)


def write_snapshot(folder: Path, adapter: Adapter, state: AdapterState) -> None:
    """Write the snapshot beside `folder` and rename it there. Raises: FileExistsError when it is there already."""
    window = np.array([state.losses.pending, state.losses.count], np.float64)
    vectors = {name: np.ascontiguousarray(vector) for name, vector in state.vectors.items()}
    with published(folder) as beside:
        write_adapter(beside, adapter)
        content = save({**vectors, WINDOW: window}, metadata=header(state.step, state.layout))
        write_bytes(beside / STATE, content)
        write_bytes(beside / LOSSES, state.losses.text(state.step).encode())


def read_state(folder: Path, step: int) -> AdapterState:
    """The state of a snapshot taken at `step`, whose files have been checked (`state_files.state_fault`)."""
    with safe_open(str(folder / STATE), framework="np") as file:
        about = json.loads(file.metadata()[HEADER])
        vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    pending, count = vectors.pop(WINDOW).tolist()
    wide = {name: np.asarray(vector, np.float32) for name, vector in vectors.items()}
    return AdapterState(step, wide, about["layout"], LossLog.read(folder, pending, int(count)))
