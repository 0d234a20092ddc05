"""A snapshot's folder and its bookkeeping on disk, the same for every backend: who trained can be exchanged."""

from __future__ import annotations

import csv
import io
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from jdx.errors import Fault

STATE, LOSSES = "state.safetensors", "losses.csv"
WINDOW = "loss_window"
"""The tensor in STATE with the sum and the count of the unfinished window."""
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

    @staticmethod
    def read(folder: Path, pending: float, count: int) -> LossLog:
        """The log of a snapshot, with the unfinished window's numbers from its state."""
        with (folder / LOSSES).open(encoding="utf-8", newline="") as text:
            rows = tuple((int(row["step"]), float(row["loss"])) for row in csv.DictReader(text))
        return LossLog(rows[:-1] if count else rows, pending, count)


def snapshot_folder(out: Path, style: str, step: int) -> Path:
    """out/STYLE/STEP with at least six digits."""
    return out / style / f"{step:06d}"


def header(step: int, layout: Mapping[str, str]) -> dict[str, str]:
    """The header of STATE."""
    return {HEADER: json.dumps({"format": FORMAT, "step": step, "layout": dict(layout)}, sort_keys=True)}


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write a snapshot into; renamed there at the end of the block, if all went well.

    Raises: FileExistsError when the folder is already there.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} already holds a snapshot; move it away or write elsewhere")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    beside.mkdir()
    yield beside
    beside.rename(folder)
    _flush(folder.parent)


def state_fault(folder: Path, step: int) -> Fault | None:
    """Why training cannot go on from this snapshot at `step`, or None; reads headers only."""
    if not (folder / LOSSES).is_file():
        return Fault("resume", str(folder / LOSSES), "not there; give a snapshot folder of a training run")
    try:
        with safe_open(folder / STATE, "np") as file:
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


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
