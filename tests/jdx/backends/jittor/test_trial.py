"""A whole trial with Jittor: trained, killed while it draws, gone on with, scored, and kept apart from PyTorch's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jdx import trial, validation
from jdx.backends.base import GenerateJob, OnStyle
from jdx.backends.jittor.backend import JittorBackend
from jdx.backends.jittor.environment import Environment
from jdx.errors import BackendError
from jdx.progress import Progress
from tests.configs import compose_plain

SMALL = (
    "method=dreambooth", "data.styles=[00,01]", "data.max_prompts=2", "data.max_references=2", "train.steps=4",
    "train.checkpoint_every=2", "train.crop.variants=2", "sampler.steps=2", "lora.rank=2", "tracker=none",
    "quiet=true", "backend.device=cpu",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, jittor: Environment) -> Callable[..., tuple[trial.TrialResult, dict[str, Any]]]:
    """Runs a trial in a folder of its own, all with one store."""

    def one(name: str, *settings: str) -> tuple[trial.TrialResult, dict[str, Any]]:
        places = (f"store.root={tmp_path / 'store'}", f"data.root={tmp_path / 'sample'}")
        result = trial.run(validation.build(compose_plain(*SMALL, *places, *settings)), tmp_path / name)
        return result, json.loads((tmp_path / name / "trial.json").read_text())

    return one


@pytest.mark.slow
def test_a_trial_survives_its_worker(
    run: Callable[..., tuple[trial.TrialResult, dict[str, Any]]],
    jittor: Environment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = f"backend.home={jittor.home}"
    draw, pids = JittorBackend.generate, []

    def killed(
        self: JittorBackend, job: GenerateJob, out: Path, progress: Progress, on_style: OnStyle
    ) -> None:
        def first_only(style: str, folder: Path) -> None:
            on_style(style, folder)
            assert self._worker is not None
            pids.append(self._worker.pid)
            self._worker._process.kill()

        draw(self, job, out, progress, first_only)

    with monkeypatch.context() as patch:
        patch.setattr(JittorBackend, "generate", killed)
        with pytest.raises(BackendError, match=r"SIGKILL.*What it had finished is kept"):
            run("killed", "backend=jittor", home)
    assert pids

    result, record = run("again", "backend=jittor", home)
    assert record["stages"]["encode"]["made"] == record["stages"]["train"]["made"] == 0
    assert record["stages"]["generate"] == {"made": 2 - len(pids), "reused": len(pids)}
    assert result.final_score is not None
    assert record["environment"]["jittor"] == record["identity"]["jittor"] == "1.3.11.0"
    assert record["identity"]["backend"] == "jittor"

    _, torchs = run("torch", "backend=torch")
    assert torchs["stages"]["encode"]["made"] == 2
    assert torchs["stages"]["train"]["made"] == 2
    assert "jittor" not in torchs["identity"]
