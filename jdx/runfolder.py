"""The run folder: what a trial leaves for people and for other programs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdx.stages.adapt import Adapters, read_losses
from jdx.stages.bench import Bench
from jdx.store import ENTRY, write_atomic

ADAPTER_FILE = "pytorch_lora_weights.safetensors"


def write_json(path: Path, content: Any) -> None:
    """JSON, written whole or not at all."""
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def put_adapters(run_dir: Path, adapters: Adapters) -> None:
    """adapters/NN/pytorch_lora_weights.safetensors; earlier snapshots below adapters/step_N/NN.

    Linked where the file system allows (a set of adapters is large and is never edited in place), else copied.
    """
    for style, steps in adapters.steps.items():
        last = max(steps)
        for step, folder in steps.items():
            target = run_dir / "adapters" / ("" if step == last else f"step_{step}") / style / ADAPTER_FILE
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(folder / ADAPTER_FILE, target)
            except OSError:
                shutil.copyfile(folder / ADAPTER_FILE, target)


def put_pictures(
    run_dir: Path, pictures: Mapping[str, Path], name: str = "images"
) -> dict[str, dict[str, Path]]:
    """Copy images/NN/PROMPT.png; returns {style: {prompt: path}}. Copies, since people edit pictures in place."""
    placed: dict[str, dict[str, Path]] = {}
    for style, folder in pictures.items():
        target = run_dir / name / style
        target.mkdir(parents=True, exist_ok=True)
        placed[style] = {}
        for source in sorted(folder.glob("*.png")):
            shutil.copyfile(source, target / source.name)
            placed[style][source.stem] = target / source.name
    return placed


def put_losses(run_dir: Path, adapters: Adapters) -> dict[str, list[tuple[int, float]]]:
    """losses.csv (style, step, loss) from the last snapshot of each style."""
    losses = {style: read_losses(steps[max(steps)]) for style, steps in sorted(adapters.steps.items())}
    if losses:
        beside = run_dir / ".losses.csv"
        with beside.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["style", "step", "loss"])
            writer.writerows([style, step, loss] for style, rows in losses.items() for step, loss in rows)
        beside.replace(run_dir / "losses.csv")
    return losses


def put_references(run_dir: Path, bench: Bench) -> None:
    """references.json: {style: [paths]}, for the report."""
    paths = {s.id: [str(ref.path.absolute()) for ref in s.references] for s in bench.challenge.styles}
    write_json(run_dir / "references.json", paths)


def record(
    bench: Bench,
    folders: Mapping[str, Mapping[str, Path]],
    failed: Mapping[str, tuple[int, str]],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """trial.json: what ran where, how long each stage took, how much was reused, and the store's entries."""
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": bench.backend.describe(),
        "identity": dict(bench.identity),
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "stages": bench.made,
        "failed_styles": {
            style: {"step": step, "reason": reason} for style, (step, reason) in failed.items()
        },
        "notes": list(bench.challenge.notes),
        "entries": {
            stage: {
                name: str(path.relative_to(bench.store.root))
                for name, path in some.items()
                if (path / ENTRY).is_file()
            }
            for stage, some in folders.items()
        },
    }
