"""Trials on a tiny Stable Diffusion, tiny judges in the real formats and a set of two styles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jdx import shards, trial, validation
from tests.configs import compose_plain
from tests.data.sets import make_style, noise

STYLES = ("00", "05")


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two styles with three references and two prompts each."""
    root = tmp_path_factory.mktemp("set")
    for style in STYLES:
        make_style(root / style, pictures=(), prompts={"0": "Dog", "1": "Ice cream"})
        for number, name in enumerate(("cat", "wallet_", "ice_cream")):
            noise(72, 10 * int(style) + number).save(root / style / "images" / f"{name}.png")
    return root


class Lab:
    """Runs trials that share a store, and counts nothing twice."""

    def __init__(self, root: Path, *settings: str):
        self.root, self.settings, self.runs = root, settings, 0

    def run(self, *overrides: str) -> tuple[trial.TrialResult, Path]:
        self.runs += 1
        folder = self.root / f"run{self.runs}"
        config = validation.build(
            compose_plain(*self.settings, f"store.root={self.root / 'store'}", *overrides)
        )
        return trial.run(config, folder), folder


@pytest.fixture
def lab(
    tmp_path: Path, challenge: Path, tiny_sd: Path, tiny_judges: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lab]:
    monkeypatch.setenv("JDX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield Lab(
        tmp_path,
        "data=challenge", f"data.root={challenge}", f"model.path={tiny_sd}", "model.resolution=64",
        f"evaluation.judges={tiny_judges}", "tracker=none", "train.steps=4", "train.checkpoint_every=0",
        "train.crop.variants=2", "train.log_every=2", "sampler.steps=2", "lora.rank=2", "quiet=true",
        "backend.device=cpu", "sampler.guidance_scale=7.5", "optim.unet.lr=0.01",
        "method.blend.coarse.steps=2", "method.blend.coarse.candidates.per_reference=2",
        "method.blend.coarse.candidates.keep=1", "method.blend.coarse.candidates.sampler.steps=2",
    )  # fmt: skip
    shards.dismiss()  # the processes of further devices stay for the next trial


def pixels(folder: Path) -> dict[str, Any]:
    return {
        p.relative_to(folder).as_posix(): np.asarray(Image.open(p)) for p in sorted(folder.rglob("*.png"))
    }


def made(folder: Path) -> dict[str, dict[str, int]]:
    stages: dict[str, dict[str, int]] = json.loads((folder / "trial.json").read_text())["stages"]
    return stages
