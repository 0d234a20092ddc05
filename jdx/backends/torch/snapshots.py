"""A style's training state on disk: adapter, exact optimiser moments, and the loss so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from jdx.backends.state_files import HEADER, LOSSES, STATE, WINDOW, LossLog, header, published, state_fault
from jdx.backends.torch.adapters import Adapter, write_adapter
from jdx.errors import ConfigError
from jdx.files import write_bytes


@dataclass(frozen=True)
class AdapterState:
    """One adapter after `step` steps, on the CPU, at its true rank.

    vectors: {"PART.param" | "PART.m" | "PART.v" | "PART.ema": (entries,)}, the last where there is a running
    average; layout: {part: digest of what it is
    made of}.
    """

    step: int
    vectors: Mapping[str, Tensor]
    layout: Mapping[str, str]
    losses: LossLog = field(default_factory=LossLog)


def finite(rows: Mapping[str, Tensor]) -> list[bool]:
    """Which of K adapters have finite numbers only, of buffers (K, P); one wait for the device, no copies there."""
    ends = [end for row in rows.values() if row.shape[1] for end in row.aminmax(dim=1)]  # a NaN is both ends
    found: list[bool] = torch.stack(ends).isfinite().all(dim=0).tolist()
    return found


def save(folder: Path, adapter: Adapter, state: AdapterState) -> None:
    """Write the snapshot beside `folder`, flush it to disk and rename it there.

    Raises: FileExistsError when the folder is already there.
    """
    window = torch.tensor([state.losses.pending, state.losses.count], dtype=torch.float64)
    with published(folder) as beside:
        write_adapter(beside, adapter)
        vectors = {**state.vectors, WINDOW: window}
        write_bytes(beside / STATE, to_bytes(vectors, header(state.step, state.layout)))
        write_bytes(beside / LOSSES, state.losses.text(state.step).encode())


def load(folder: Path, step: int) -> AdapterState:
    """Read the state of a snapshot taken at `step` back.

    Raises: ConfigError when files are missing or are not what `save` writes.
    """
    if (fault := state_fault(folder, step)) is not None:
        raise ConfigError([fault], "training job")
    with safe_open(folder / STATE, "pt") as file:
        about = json.loads(file.metadata()[HEADER])
        vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    pending, count = vectors.pop(WINDOW).tolist()
    return AdapterState(step, vectors, about["layout"], LossLog.read(folder, pending, int(count)))
