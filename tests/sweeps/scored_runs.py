"""Finished runs as a trial leaves them, with chosen numbers, for the leaderboard's tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.formula import final_score, quality_part, style_part

JUDGES = {
    "name": "mini",
    "sha256": {role: f"{number}" * 64 for number, role in enumerate(("dino", "clip_r", "lpips", "fid"))},
    "settings": {"fid_scale": 1.0},
}
VARIANTS = {"histogram": "official", "fid_resize": "tf1"}


def make_metrics(shift: float = 0.0, seed: int = 0, styles: int = 8, prompts: int = 5) -> dict[str, Any]:
    """metrics.json of a set whose styles differ; shift: of Hist; seed: of training noise."""
    common, own = np.random.default_rng(0), np.random.default_rng([seed, int(1e6 * abs(shift))])
    per_style: dict[str, Any] = {}
    for number in range(styles):
        hist = 0.5 + 0.1 * common.normal() + shift + 0.01 * own.normal()
        numbers = {"dino": 0.1, "hist": hist, "lpips": 0.4, "clip_iqa": 0.7, "clip_r": 0.8}
        per_style[f"{number:02d}"] = {
            **numbers,
            "fid_without": 2.0 + 0.1 * common.normal(),
            "n_pictures": prompts,
            "pictures": {f"Thing {i}": {**numbers, "clip_r_hit": i > 0} for i in range(prompts)},
        }
    names = ("dino", "hist", "lpips", "clip_iqa", "clip_r")
    numbers = {name: float(np.mean([style[name] for style in per_style.values()])) for name in names}
    numbers["fid"] = 2.0
    return {
        "final_score": final_score(**numbers),
        **numbers,
        "style_part": style_part(numbers["dino"], numbers["hist"], numbers["lpips"]),
        "quality_part": quality_part(2.0, numbers["clip_iqa"], numbers["clip_r"]),
        "complete": True,
        "missing": [],
        "n_pictures": styles * prompts,
        "judges": JUDGES,
        "variants": VARIANTS,
        "styles": per_style,
        "failed_styles": [],
    }


def make_about(method: str = "dreambooth", rank: int = 4, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """trial.json."""
    return {
        "finished": f"2026-11-21T10:00:{seed:02d}+0000",
        "environment": {"device": "NVIDIA H100"},
        "identity": {"backend": "torch", "dtype": "bfloat16", "model": "folder:abc"},
        "data": {"digest": "set-one", "styles": 8, "prompts": 40},
        "sweep": None,
        "seconds": {"train": 100.0, "generate": 20.0},
        "stages": {"train": {"made": 8, "reused": 0}},
        "failed_styles": {},
        "config": {
            "model": {"name": "mini", "path": "somewhere"},
            "data": {"name": "sample", "root": "anywhere"},
            "method": {"name": method, "train": True},
            "lora": {"rank": rank, "unet": {"rank": rank}},
            "train": {"seed": seed, "steps": 400, "log_every": 10},
            "sampler": {"seed": None, "steps": 25},
            "evaluation": {"judges": "mini"},
            "tracker": {"name": "none"},
            "backend": {"device": "auto", "devices": "auto"},
            "quiet": True,
            "tags": [],
        },
        **changes,
    }


def put_run(
    folder: Path,
    shift: float = 0.0,
    *,
    metrics: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    **what: Any,
) -> Path:
    """A run folder; what: of make_about; metrics, about: keys to replace."""
    folder.mkdir(parents=True)
    seed = int(what.get("seed", 0))
    (folder / "seeds.json").write_text("{}")
    content = make_metrics(shift, seed) | dict(metrics or {})
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "trial.json").write_text(json.dumps(make_about(**what) | dict(about or {})))
    return folder
