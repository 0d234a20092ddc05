"""A trial tells each style's score as it comes, does styles in groups, and stops when it is asked to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jdx import observer, trial
from jdx.stages import adapt
from jdx.stages.score import style_score
from tests.jdx.lab import Lab, challenge, lab, made, pixels

__all__ = ["challenge", "lab"]


class Note(observer.Observer):
    """Writes down what it hears; reverses the styles; stops after `patience` styles."""

    run = observer.SweepRun("study", 7, 2, seed=5)

    def __init__(self, patience: int = 99):
        self.patience = patience
        self.styles: list[tuple[str, int, float]] = []
        self.snapshots: list[tuple[int, float]] = []

    def order(self, styles: Sequence[str]) -> Sequence[str]:
        return styles[::-1]

    def style(self, style: str, index: int, score: float) -> None:
        self.styles.append((style, index, score))

    def snapshot(self, step: int, score: float) -> None:
        self.snapshots.append((step, score))

    def stopping(self) -> bool:
        return len(self.styles) + len(self.snapshots) >= self.patience


def test_groups_change_no_result_and_their_order_neither(lab: Lab) -> None:
    plain, one = lab.run("method=styleid_db", "method.styleid.steps=3")
    note = Note()
    with observer.watched(note):
        grouped, two = lab.run(
            "method=styleid_db", "method.styleid.steps=3", "group_size=1", f"store.root={lab.root / 'other'}"
        )
    assert [(style, index) for style, index, _ in note.styles] == [("05", 1), ("00", 0)]
    ours, theirs = pixels(one), pixels(two)
    assert ours.keys() == theirs.keys()
    for name in ours:  # kernels round differently at another batch size, on each kind of CPU in its own way
        off = np.abs(ours[name].astype(int) - theirs[name].astype(int))
        assert off.max() <= 8
        assert (off > 1).mean() < 0.01
    assert grouped.final_score == pytest.approx(plain.final_score, abs=1e-3)
    assert json.loads((two / "metrics.json").read_text())["complete"]
    assert {stage: tally["made"] for stage, tally in made(two).items()} == {
        stage: tally["made"] for stage, tally in made(one).items()
    }


def test_score_of_a_style_is_the_formula_without_fid() -> None:
    metrics = {"dino": 0.5, "hist": 0.25, "lpips": 0.75, "clip_iqa": 0.5, "clip_r": 1.0}
    assert style_score(metrics) == pytest.approx((0.1 + 0.1 + 0.1) * (0.5 + 0.4 + 0.05))


def test_stopped_trial_trains_no_more_and_has_no_final_score(lab: Lab) -> None:
    note = Note(patience=1)
    with observer.watched(note):
        result, run = lab.run("group_size=1")
    assert result.stopped
    assert result.final_score is None
    assert [style for style, _, _ in note.styles] == ["05"]
    assert made(run)["train"] == {"made": 1, "reused": 0}
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["final_score"], metrics["stopped"], metrics["complete"]) == (None, True, False)
    assert not (run / "images" / "00").exists()
    again, straight = lab.run("group_size=1")  # the same trial later goes on from the finished style
    assert made(straight)["train"] == {"made": 1, "reused": 1}
    assert again.final_score is not None


def test_snapshots_are_scored_as_trials_of_their_own_would_be(lab: Lab) -> None:
    note = Note()
    with observer.watched(note):
        result, run = lab.run("train.snapshots=[2]", "train.score_snapshots=true")
    short, _ = lab.run("train.steps=2", f"store.root={lab.root / 'other'}")
    assert dict(note.snapshots) == {2: pytest.approx(short.final_score, abs=1e-6)}
    assert len(note.styles) == 2  # only the end's
    assert json.loads((run / "metrics.json").read_text())["snapshots"]["2"] == pytest.approx(
        short.final_score
    )
    assert result.final_score != short.final_score
    early = run / "snapshots" / "step_2"
    assert sorted(pixels(early / "images")) == sorted(pixels(run / "images"))


def test_a_snapshot_without_a_stopped_style_is_not_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its score is of the other styles only, as the trial's own, which is not told either."""

    def poisoned(bench: Any, prior: Any) -> Any:
        specs = adapt.adapter_specs(bench, prior)
        return specs | {"05": replace(specs["05"], unet_lr=1e38)}

    monkeypatch.setattr(trial, "adapter_specs", poisoned)
    note = Note()
    with observer.watched(note):
        result, run = lab.run("train.steps=8", "train.snapshots=[6]", "train.score_snapshots=true")
    assert set(result.failed) == {"05"}
    assert note.snapshots == []
    assert json.loads((run / "metrics.json").read_text())["snapshots"] == {"6": None}
    assert json.loads((run / "snapshots" / "step_6" / "metrics.json").read_text())["failed_styles"] == ["05"]


def test_trial_stops_at_a_snapshot(lab: Lab) -> None:
    with observer.watched(Note(patience=1)):
        result, run = lab.run("train.snapshots=[2]", "train.score_snapshots=true")
    assert result.stopped
    assert not (run / "images").exists()
    assert list(result.metrics["snapshots"]) == ["2"]


def test_every_attempt_has_a_name_of_its_own(tmp_path: Path) -> None:
    assert observer.SweepRun("s", 3, 1).id == "s-3-1"
    assert observer.SweepRun("s", 3, 1, seed=4).id == "s-3-s4-1"
    assert observer.current().run is None
    assert not observer.current().stopping()
