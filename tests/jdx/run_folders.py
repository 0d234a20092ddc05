"""A small run folder as a trial leaves it, with two styles of different strength."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.data.sets import noise

PROMPTS = ("Cat", "Ice cream", "<b>Dog")


def make_run(root: Path, *, judges: str = "mini", edge: int = 24) -> Path:
    """Styles 00 (good) and 01 (weak), three pictures each, two references of 00."""
    for style in ("00", "01"):
        (root / "images" / style).mkdir(parents=True)
        for i, prompt in enumerate(PROMPTS):
            noise(edge, i).save(root / "images" / style / f"{prompt}.png")
    (root / "refs").mkdir()
    for name in ("cow_.png", "origami_dog.png"):
        noise(edge, 9).save(root / "refs" / name)
    references = {"00": ["refs/cow_.png", str(root / "refs" / "origami_dog.png")]}
    (root / "references.json").write_text(json.dumps(references))
    (root / "metrics.json").write_text(json.dumps(metrics(judges)))
    losses = [f"{s},{n},{0.3 / s + i / 10},0.0001" for s in range(1, 9) for i, n in enumerate(("00", "01"))]
    (root / "losses.csv").write_text("\n".join(["step,style,loss,lr", *losses]) + "\n")
    (root / ".hydra").mkdir()
    (root / ".hydra" / "config.yaml").write_text("lora:\n  rank: 32\nnote: <i>x</i>\n")
    (root / ".hydra" / "overrides.yaml").write_text("- lora.rank=32\n- 'note=<i>x</i>'\n")
    return root


def metrics(judges: str = "mini") -> dict[str, Any]:
    """`metrics.json` in the scorer's format."""
    return {
        "final_score": 0.512078,
        "dino": 0.120226,
        "hist": 0.779055,
        "fid": 1.674596,
        "lpips": 0.428658,
        "clip_iqa": 0.757711,
        "clip_r": 0.930667,
        "style_part": 0.564204,
        "quality_part": 0.907613,
        "judges": {"name": judges, "digests": {"dino": "ab12"}},
        "variants": {"histogram": "official"},
        "versions": {"torch": "2.15.0"},
        "n_pictures": 6,
        "faults": [
            {
                "kind": "ignored",
                "severity": "note",
                "message": "00/images/<x>.png was ignored",
                "style": None,
            }
        ],
        "complete": True,
        "missing": [],
        "styles": {"00": _style(0.8), "01": _style(0.4)},
    }


def _style(hist: float) -> dict[str, Any]:
    scores = {"dino": 0.1, "hist": hist, "lpips": 0.4, "clip_iqa": 0.7}
    seen = ["cat", "dog", "cow", "boat", "sea"]
    pictures = {p: scores | {"clip_r_hit": p == "Cat", "clip_r_top5": seen} for p in PROMPTS}
    return scores | {"clip_r": 1 / 3, "n_pictures": 3, "pictures": pictures}
