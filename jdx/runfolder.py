"""The run folder: what a trial leaves for people and for other programs."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image

from jdx import observer
from jdx.beside import beside, threads
from jdx.device_list import devices_of
from jdx.digests import data_identity
from jdx.errors import ConfigError, Fault
from jdx.files import write_text
from jdx.schema import plain
from jdx.stages.adapt import Adapters, read_losses
from jdx.stages.bench import Bench
from jdx.stages.coarse import coarse_name
from jdx.store import ENTRY

log = logging.getLogger(__name__)

ADAPTER_FILES = (
    "pytorch_lora_weights.safetensors",
    "vae_enhancer.safetensors",
    "learned_embeds.safetensors",
)
"""What a snapshot may hold for drawing."""
COPIERS = 8
"""Threads that put pictures into the run folder: a resized one takes a core some 60 ms."""
MARKS = ("seeds.json", "trial.json")
"""One of these is there from a trial's beginning to its end: a folder without them holds nobody's trial."""
RESULTS = (
    *MARKS,
    "adapters",
    "content",
    "diagnosis.json",
    "images",
    "losses.csv",
    "metrics.json",
    "published.json",
    "references.json",
    "report.html",
    "selection.json",
    "snapshots",
    "wandb",
)


@contextmanager
def owned(run_dir: Path) -> Iterator[None]:
    """Keep other processes out of a run folder, and an earlier trial's results out of this one's.

    Raises: ConfigError when another process writes there, or when the folder holds things that no trial made.
    """
    lock = FileLock(run_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        remedy = "another process is writing into this run folder: wait for it, or choose another one"
        raise ConfigError([Fault("hydra.run.dir", str(run_dir), remedy)]) from None
    try:
        _set_aside(run_dir)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _set_aside(run_dir: Path) -> None:
    """Move an earlier trial's results to earlier/N: left in place they would be mixed with ours and scored."""
    there = [name for name in RESULTS if (run_dir / name).exists()]
    if not there:
        return
    if not any(name in there for name in MARKS):
        what = f"holds {', '.join(there)}, which no trial made: choose another folder, or move them away"
        raise ConfigError([Fault("hydra.run.dir", str(run_dir), what)])
    aside = next(p for n in count(1) if not (p := run_dir / "earlier" / str(n)).exists())
    aside.mkdir(parents=True)
    for name in there:
        (run_dir / name).rename(aside / name)
    log.warning("the run folder held an earlier trial: %s moved to %s", ", ".join(there), aside)


def write_json(path: Path, content: Any) -> None:
    """JSON, written whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def put_adapters(run_dir: Path, adapters: Adapters) -> None:
    """adapters/NN/ with the files that drawing needs; earlier snapshots below adapters/step_N/NN, and a coarse
    branch's below adapters/NN/coarse.

    Linked where the file system allows (a set of adapters is large and is never edited in place), else copied.
    """
    for style, steps in adapters.steps.items():
        last = max(steps)
        for step, folder in steps.items():
            _put_adapter(folder, run_dir / "adapters" / ("" if step == last else f"step_{step}") / style)
    for style, folder in adapters.coarse.items():
        _put_adapter(folder, run_dir / "adapters" / style / "coarse")


def _put_adapter(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            _link(folder / name, target / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def put_pictures(
    run_dir: Path, pictures: Mapping[str, Path], name: str = "images", size: int | None = None
) -> dict[str, dict[str, Path]]:
    """Copy images/NN/PROMPT.png; returns {style: {prompt: path}}. Copies, since people edit pictures in place.

    size: pixels a side that the copies are resized to (Lanczos); None = as they were drawn.
    """
    placed: dict[str, dict[str, Path]] = {}
    with beside(threads(COPIERS), "pictures") as others:
        for style, folder in pictures.items():
            target = run_dir / name / style
            target.mkdir(parents=True, exist_ok=True)
            placed[style] = {}
            for source in sorted(folder.glob("*.png")):
                others.do(partial(_put_picture, source, target / source.name, size))
                placed[style][source.stem] = target / source.name
    return placed


def _put_picture(source: Path, target: Path, size: int | None) -> None:
    with Image.open(source) as picture:
        if size not in {None, picture.width}:
            assert size is not None
            picture.resize((size, size), Image.Resampling.LANCZOS).save(target)
            return
    shutil.copyfile(source, target)


def put_losses(run_dir: Path, adapters: Adapters) -> dict[str, list[tuple[int, float]]]:
    """losses.csv (style, step, loss) from the last snapshot of each style, and of its coarse branch."""
    losses = {style: read_losses(steps[max(steps)]) for style, steps in sorted(adapters.steps.items())}
    losses |= {coarse_name(style): read_losses(folder) for style, folder in sorted(adapters.coarse.items())}
    if losses:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["style", "step", "loss"])
        writer.writerows([style, step, loss] for style, rows in losses.items() for step, loss in rows)
        write_text(run_dir / "losses.csv", text.getvalue())
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
    swept = observer.current().run
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": bench.backend.describe(),
        "devices": max(1, len(devices_of(bench.config))),
        "identity": dict(bench.identity),
        "data": data_identity(bench.challenge),
        "sweep": None if swept is None else {**asdict(swept), "id": swept.id},
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "stages": {stage: {k: max(0, n) for k, n in tally.items()} for stage, tally in bench.made.items()},
        "failed_styles": {
            style: {"step": step, "reason": reason} for style, (step, reason) in failed.items()
        },
        "config": plain(bench.config),
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
