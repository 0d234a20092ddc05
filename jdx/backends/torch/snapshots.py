"""A style's training state on disk: adapter, exact optimiser moments, and the loss so far."""

from __future__ import annotations

import csv
import io
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from jdx.backends.torch.adapters import Adapter, write_adapter
from jdx.errors import ConfigError, Fault
from jdx.files import write_bytes

STATE, LOSSES = "state.safetensors", "losses.csv"
HEADER = "jdx_train_state"  # one header entry: safetensors writes several in random order
FORMAT = 1


@dataclass(frozen=True)
class LossLog:
    """Mean losses of finished windows, (last step, mean), and the sum and count of the unfinished one."""

    rows: tuple[tuple[int, float], ...] = ()
    pending: float = 0.0
    count: int = 0

    def text(self, step: int) -> str:
        """losses.csv as of `step`, the unfinished window's mean as its last row."""
        last = ((step, self.pending / self.count),) if self.count else ()
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([("step", "loss"), *self.rows, *last])
        return buffer.getvalue()


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


def save(folder: Path, adapter: Adapter, state: AdapterState) -> None:
    """Write the snapshot beside `folder`, flush it to disk and rename it there.

    Raises: FileExistsError when the folder is already there.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} already holds a snapshot; move it away or write elsewhere")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    beside.mkdir()
    write_adapter(beside, adapter)
    window = torch.tensor([state.losses.pending, state.losses.count], dtype=torch.float64)
    about = json.dumps({"format": FORMAT, "step": state.step, "layout": dict(state.layout)}, sort_keys=True)
    write_bytes(beside / STATE, to_bytes({**state.vectors, "loss_window": window}, {HEADER: about}))
    write_bytes(beside / LOSSES, state.losses.text(state.step).encode())
    beside.rename(folder)
    _flush(folder.parent)


def state_fault(folder: Path, step: int) -> Fault | None:
    """Why training cannot go on from this snapshot at `step`, or None; reads headers only."""
    if not (folder / LOSSES).is_file():
        return Fault("resume", str(folder / LOSSES), "not there; give a snapshot folder of a training run")
    try:
        with safe_open(folder / STATE, "pt") as file:
            about = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except (OSError, SafetensorError) as error:
        return Fault(
            "resume", str(folder / STATE), f"cannot be read ({error}); give a snapshot of a training run"
        )
    if about.get("format") != FORMAT:
        return Fault("resume", str(folder / STATE), f"has format {about.get('format')}, expected {FORMAT}")
    if about["step"] != step:
        return Fault(
            "resume", str(folder), f"was written at step {about['step']}, not at start_step = {step}"
        )
    return None


def load(folder: Path, step: int) -> AdapterState:
    """Read the state of a snapshot taken at `step` back.

    Raises: ConfigError when files are missing or are not what `save` writes.
    """
    if (fault := state_fault(folder, step)) is not None:
        raise ConfigError([fault], "training job")
    with safe_open(folder / STATE, "pt") as file:
        about = json.loads(file.metadata()[HEADER])
        vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    pending, count = vectors.pop("loss_window").tolist()
    with (folder / LOSSES).open(encoding="utf-8", newline="") as text:
        rows = tuple((int(row["step"]), float(row["loss"])) for row in csv.DictReader(text))
    losses = LossLog(rows[:-1] if count else rows, pending, int(count))
    return AdapterState(step, vectors, about["layout"], losses)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
