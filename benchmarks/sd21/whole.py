"""Whole trials on a made-up A set: 15 styles of 10 references and 25 prompts, through `jdx.trial.run`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.effects import settings
from benchmarks.score import SIZES, make_judges, make_set
from jdx import trial, validation


def made_up_set(folder: Path, size: str, styles: int = 15, pictures: int = 25, references: int = 10) -> None:
    """The set's pictures and random judges of the real sizes ("full"), once."""
    if not (folder / "judges" / "judges.json").exists():
        make_set(folder, styles, pictures, references, 512)
        make_judges(folder / "judges", SIZES[size], real=size == "full")


def overrides(folder: Path, model: Path, extra: Sequence[str]) -> list[str]:
    """A trial of the set: DreamBooth of rank 32 with prior preservation, StyleID on its pictures, the score."""
    return [
        "model=sd21",
        f"model.path={model}",
        "data=challenge",
        f"data.root={folder / 'references'}",
        "evaluation=challenge",
        f"evaluation.judges={folder / 'judges' / 'judges.json'}",
        "method=styleid_db",
        "method.prior.weight=1",
        "method.prior.words=references",
        "method.prior.per_word=1",
        "lora.rank=32",
        "train.steps=800",
        "sampler=unipc",
        "sampler.steps=40",
        "tracker=none",
        "quiet=true",
        f"store.root={folder / 'store'}",
        *extra,
    ]


def run(folder: Path, words: Sequence[str], name: str) -> tuple[float, dict[str, Any]]:
    """(seconds of the trial, its trial.json)."""
    start = time.perf_counter()
    result = trial.run(validation.build(settings(*words)), folder / "runs" / name)
    seconds = time.perf_counter() - start
    record: dict[str, Any] = json.loads((result.run_dir / "trial.json").read_text())
    return seconds, record
