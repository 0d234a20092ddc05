"""What a trial says at its end: why there is no final score, what took no time, which command comes next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jdx import summary, validation
from jdx.trial import TrialResult
from tests.configs import compose_plain

SCORES = {"dino": 0.1, "hist": 0.2, "lpips": 0.3, "clip_iqa": 0.4, "clip_r": 0.5}


def said(capsys: pytest.CaptureFixture[str], *settings: str, stages: Any = None, **metrics: Any) -> list[str]:
    metrics = {"final_score": None, **SCORES, "styles": {"00": SCORES}, **metrics}
    result = TrialResult(
        Path("run"), metrics["final_score"], metrics, {}, Path("run/report.html"), stages=stages or {}
    )
    summary.show(result, validation.build(compose_plain(*settings)))
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_what_leaves_a_run_without_a_final_score_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    why = "FID needs two pictures on each side: no FID and no final score"
    faults = [
        {"severity": "warning", "message": "a grey picture"},
        {"severity": "error", "message": why},
    ]
    lines = said(capsys, faults=faults)
    assert why in lines
    assert not any("grey" in line or line.startswith("final score") for line in lines)


def test_what_the_store_had_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    stages = {"train": {"made": 0, "reused": 4}, "score": {"made": 3, "reused": 1}}
    assert "from store  train 4 of 4, score 1 of 4" in said(capsys, stages=stages, final_score=0.5)
    new = {"train": {"made": 4, "reused": 0}}
    assert not any(line.startswith("from store") for line in said(capsys, stages=new, final_score=0.5))


def test_the_next_command_keeps_ones_own_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert any("data.root=DIR" in line for line in said(capsys))
    root = tmp_path / "my set"
    lines = said(capsys, "data=challenge", f"data.root='{root}'")
    assert any(f"'data.root={root}' evaluation=challenge" in line for line in lines)
    other = said(capsys, "model=sd21", "model.path=somewhere/else")
    assert not any("model=sd21" in line for line in other)
