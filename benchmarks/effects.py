"""What each method does, measured on the mini world: mean and spread over seeds, as a Markdown table.

    python -m benchmarks.effects [--seeds 0 1 2] [--only base DreamBooth] [--write docs/mini-world.md]
    python -m benchmarks.effects --table --write docs/mini-world.md    # of what is measured; runs nothing

Every row is an ordinary trial (`jdx.trial.run`) on the sample set: 4 styles, 10 references, 12 prompts each. Trials
share a store, so DreamBooth's adapters are trained once per seed and used by every method that builds on them. Several
of these commands may fill one --out at once, one per seed for example (with `backend.threads=1` on a CPU).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import jdx.train  # registers the resolver that the configuration uses
from jdx import ROOT, trial, validation

assert jdx.train

COMMON = ("lora.rank=32", "tracker=none", "quiet=true")
# A high rate for many steps: where DreamBooth forgets what things look like, but not yet everything.
OVERFIT = ("optim.unet.lr=2e-3", "train.steps=600")
ROWS: dict[str, tuple[str, ...]] = {
    "base": ("method=base",),
    "base, DreamBooth's prompt": (
        "method=base",
        "method.prompts.generate='an image of {object} in style_{style}'",
    ),
    "DreamBooth": ("method=dreambooth",),
    "DreamBooth, 800 steps": ("method=dreambooth", "train.steps=800"),
    "+ prior": ("method=prior", "method.prior.per_word=2"),
    "+ prior as half of the samples": (
        "method=dreambooth",
        "method.prior.fraction=0.5",
        "method.prior.per_word=2",
    ),
    "+ average init": ("method=average",),
    "StyleID on base": ("method=styleid",),
    "StyleID on DreamBooth": ("method=styleid_db",),
    "StyleID, most similar reference": ("method=styleid_db", "method.styleid.reference=most_similar"),
    "StyleID + average init": ("method=styleid_db", "method.init.picture=average"),
    "+ VAE enhancer": ("method=vae_enhancer",),
    "textual inversion": ("method=textual_inversion", "lora.rank=0"),
    "+ textual inversion": ("method=dreambooth_ti",),
    "+ text encoder": ("method=dreambooth", "lora.text_encoder.rank=8"),
    "+ feed-forward": ("method=dreambooth", "lora=attention_ff"),
    "+ min-SNR 5": ("method=dreambooth", "train.min_snr_gamma=5.0"),
    "+ EMA .99": ("method=dreambooth", "train.ema_decay=0.99"),
    "DoRA": ("method=dreambooth", "lora.dora=true"),
    "one joint adapter, rank 128": (
        "method=dreambooth",
        "lora=joint",
        "lora.rank=128",
        "train.steps=1600",
        "optim.unet.lr=3e-4",
    ),
    "blended branches": ("method=blend",),
    "+ origin_scale .2": ("method=dreambooth", "method.prompts.origin_scale=0.2"),
    "best of 4 candidates": ("method=dreambooth", "method.select.candidates=4"),
    "overfit: DreamBooth": ("method=dreambooth", *OVERFIT),
    "overfit: + prior": ("method=prior", "method.prior.per_word=2", *OVERFIT),
}
METRICS = ("dino", "hist", "lpips", "clip_r", "clip_iqa", "fid", "style_part", "quality_part", "final_score")
HEADS = ("DINO ↑", "Hist ↑", "LPIPS ↓", "top-5 ↑", "IQA ↑", "FID ↓", "style", "quality", "final")
MARK = ("<!-- effects: begin -->", "<!-- effects: end -->")

Scores = dict[str, dict[int, dict[str, Any]]]


def settings(*overrides: str) -> dict[str, Any]:
    """The composed configuration as nested dicts."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plain = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def measure(
    rows: Sequence[str], seeds: Sequence[int], out: Path, extra: Sequence[str], run: bool = True
) -> Scores:
    """Run the trials that `out` does not hold yet, unless told not to; returns {row: {seed: metrics}}."""
    scores: Scores = {row: {} for row in rows}
    for seed in seeds:
        for row in rows:
            folder = out / f"seed{seed}" / "".join(letter if letter.isalnum() else "_" for letter in row)
            if not (folder / "metrics.json").is_file():
                if not run:
                    continue
                start = time.perf_counter()
                words = [*COMMON, *ROWS[row], *extra, f"train.seed={seed}", f"store.root={out / 'store'}"]
                trial.run(validation.build(settings(*words)), folder)
                print(f"{row}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
            scores[row][seed] = json.loads((folder / "metrics.json").read_text())
    return {row: by_seed for row, by_seed in scores.items() if by_seed}


def table(scores: Scores) -> str:
    """Markdown: mean ± standard deviation over seeds."""
    lines = ["| method | " + " | ".join(HEADS) + " |", "|---" * (len(HEADS) + 1) + "|"]
    for row, by_seed in scores.items():
        cells = [_cell([by_seed[seed][metric] for seed in by_seed]) for metric in METRICS]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def claims(scores: Scores) -> str:
    """The effects that the mini world is meant to show, each with its demand and what was measured."""

    def mean(row: str, metric: str) -> float:
        return statistics.fmean(metrics[metric] for metrics in scores[row].values())

    asked = [
        ("DreamBooth's style part over the base's", "≥ .30", ("DreamBooth", "base"), "style_part"),
        (
            "the same against the base with DreamBooth's prompt",
            "≥ .30",
            ("DreamBooth", "base, DreamBooth's prompt"),
            "style_part",
        ),
        (
            "DreamBooth's style part at 800 steps over the base's",
            "≥ .30",
            ("DreamBooth, 800 steps", "base"),
            "style_part",
        ),
        ("average init's hist over DreamBooth's", "≥ .03", ("+ average init", "DreamBooth"), "hist"),
        ("StyleID's hist over DreamBooth's", "≥ .10", ("StyleID on DreamBooth", "DreamBooth"), "hist"),
        (
            "prior's top-5 where DreamBooth overfits",
            "> 0",
            ("overfit: + prior", "overfit: DreamBooth"),
            "clip_r",
        ),
    ]
    lines = ["| effect | wanted | measured |", "|---|---|---|"]
    for what, wanted, (row, against), metric in asked:
        if row in scores and against in scores:
            lines.append(f"| {what} | {wanted} | {mean(row, metric) - mean(against, metric):+.3f} |")
    if "DreamBooth" in scores:
        lines.append(f"| DreamBooth's top-5 | ≥ .95 | {mean('DreamBooth', 'clip_r'):.3f} |")
    return "\n".join(lines)


def _where(out: Path) -> str:
    """The machines that measured, the one with most trials first."""
    records = (json.loads(file.read_text())["environment"] for file in out.glob("seed*/*/trial.json"))
    counts = Counter(f"{e['device']}, torch {e['torch']}, {e['dtype']}" for e in records)
    several = len(counts) > 1
    return "; ".join(f"{where} ({n} trials)" if several else where for where, n in counts.most_common())


def write(path: Path, text: str) -> None:
    """Put the tables between the marks of a document."""
    before, _, rest = path.read_text().partition(MARK[0])
    _, _, after = rest.partition(MARK[1])
    path.write_text(f"{before}{MARK[0]}\n{text}\n{MARK[1]}{after}")


def main() -> None:
    """Measure, print, and put the tables into a document if one is named."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.effects",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    rows = "; ".join(ROWS).replace("%", "%%")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(ROWS),
        default=list(ROWS),
        metavar="ROW",
        help=f"of these rows: {rows}",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/effects"), help="runs, store and numbers (%(default)s)"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the tables between the marks of a Markdown file"
    )
    parser.add_argument("--table", action="store_true", help="tabulate what --out holds, run nothing")
    parser.add_argument("overrides", nargs="*", help="further settings for every trial")
    options = parser.parse_args()
    scores = measure(
        options.only, options.seeds, options.out.absolute(), options.overrides, not options.table
    )
    seeds = f"{len(options.seeds)} seeds (one where no spread is given)"
    head = f"{seeds}; {_where(options.out.absolute())}."
    text = f"{head} `python -m benchmarks.effects`\n\n{table(scores)}\n\n{claims(scores)}"
    print(text)
    if options.write:
        write(options.write, text)


if __name__ == "__main__":
    main()
