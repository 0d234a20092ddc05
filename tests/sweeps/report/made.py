"""Sweep folders as a finished sweep leaves them: a real study, run folders with pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image

from sweeps.ledger import PRUNED, REASON, RECORD
from sweeps.storage import open_storage

SPACE: dict[str, BaseDistribution] = {
    "lora.rank": IntDistribution(4, 64),
    "optim.unet.lr": FloatDistribution(1e-5, 1e-2, log=True),
    "method": CategoricalDistribution(["dreambooth", "styleid_db", "</script><i>x"]),
}
FAILED = ("OutOfMemoryError: <b>no room</b>", "the loss left the finite numbers at step 12")


def picture(seed: int, edge: int) -> Image.Image:
    """A smooth coloured picture, unlike other seeds'."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((edge, edge), Image.Resampling.BICUBIC)


def make_sweep(
    folder: Path, *, trials: int = 8, styles: int = 2, prompts: int = 3, edge: int = 32, objectives: int = 1
) -> Path:
    """A sweep of so many trials, the last two of them failed and the one before stopped early."""
    folder.mkdir(parents=True)
    study = optuna.create_study(
        study_name="lora-<1>", storage=open_storage(None, folder), directions=["maximize"] * objectives
    )
    study.add_trials([_trial(folder, n, trials, (styles, prompts, edge), objectives) for n in range(trials)])
    names = ["value", "metrics.hist", "metrics.dino"][:objectives]
    head = {
        "study": study.study_name,
        "storage": "study.db",
        "n_trials": trials,
        "command": "train.py -m sweep=lora",
        "content": {"objectives": names},
    }
    (folder / "sweep.json").write_text(json.dumps(head))
    best = study.best_trial.number if objectives == 1 else study.best_trials[0].number
    told = {
        "best": [{"number": best}],
        "best_command": "python -m jdx.train lora.rank=32 'note=<i>x</i>'",
    }
    (folder / "results.json").write_text(json.dumps(told))
    return folder


def _trial(
    folder: Path, n: int, trials: int, size: tuple[int, int, int], objectives: int
) -> optuna.trial.FrozenTrial:
    rng = np.random.default_rng(n)
    params = {
        "lora.rank": int(rng.integers(4, 65)),
        "optim.unet.lr": float(10 ** rng.uniform(-5, -2)),
        "method": ["dreambooth", "styleid_db", "</script><i>x"][n % 3],
    }
    if n >= trials - 2:
        reason = FAILED[n % 2]
        return create_trial(
            state=TrialState.FAIL, params=params, distributions=SPACE, user_attrs={REASON: reason}
        )
    run = folder / str(n)
    _make_run(run, n, *size)
    attrs = {RECORD: {"seconds": 60.0 * n + 30, "gpu_seconds": 60.0 * n + 30, "run_dirs": [str(run)]}}
    if n == trials - 3:
        attrs[PRUNED] = True  # type: ignore[assignment]
    values = [round(float(x), 6) for x in rng.uniform(0.3, 0.6, objectives)]
    return create_trial(values=values, params=params, distributions=SPACE, user_attrs=attrs)


def _make_run(run: Path, n: int, styles: int, prompts: int, edge: int) -> None:
    for style in range(styles):
        target = run / "images" / f"{style:02d}"
        target.mkdir(parents=True)
        for prompt in range(prompts):
            picture(1000 * n + 50 * style + prompt, edge).save(target / f"Thing {prompt}.png")
    (run / "report.html").write_text(f"<!doctype html><title>trial {n}</title>")
