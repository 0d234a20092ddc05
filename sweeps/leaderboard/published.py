"""Published scores beside our own: only under the contest's own judges, on the whole of the contest's set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from evaluation.judges import challenge_judges
from jdx.submit import SETS
from sweeps.leaderboard.runs import Run

FILE = Path(__file__).parents[1] / "published.yaml"
OFFICIAL = {"histogram": "official", "fid_resize": "tf1"}


@dataclass(frozen=True)
class Reported:
    """A score that others published; nothing about it was measured here."""

    set: str  # A or B
    score: float
    who: str
    how: str
    scored_by: str  # "contest server" or "own scorer"
    source: str
    metrics: Mapping[str, float]


@cache
def published() -> tuple[Reported, ...]:
    """The rows of published.yaml."""
    rows: list[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return tuple(Reported(**{**row, "metrics": row.get("metrics", {})}) for row in rows)


def reported_for(run: Run) -> tuple[Reported, ...]:
    """Published scores that a run may be read beside, best first; none for other judges or sets."""
    name = contest_set(run)
    return tuple(sorted((row for row in published() if row.set == name), key=lambda row: -row.score))


def contest_set(run: Run) -> str | None:
    """A or B, where the run was scored by the contest's networks and options on a set of that shape."""
    judges = run.metrics["judges"]
    official = {role: spec.sha256 for role, spec in challenge_judges().items() if spec.sha256}
    same = all(str(judges["sha256"].get(role, "")).startswith(digest) for role, digest in official.items())
    if judges.get("name") != "challenge" or not same or run.metrics.get("variants") != OFFICIAL:
        return None
    for name, (styles, prompts) in SETS.items():
        ids = tuple(f"{number:02d}" for number in range(styles))
        each = {style["n_pictures"] for style in run.metrics["styles"].values()}
        if run.styles == ids and each == {prompts}:
            return name
    return None
