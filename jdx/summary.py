"""What a trial says at its beginning, and prints at its end: scores per style, where things are, what to try next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.challenge import ChallengeSet
from jdx.schema import TrialConfig
from jdx.trial import TrialResult
from jdx.words import counted, typed

METRICS = ("dino", "hist", "lpips", "clip_iqa", "clip_r")
HEADS = {"dino": "DINO ↑", "hist": "Hist ↑", "lpips": "LPIPS ↓", "clip_iqa": "IQA ↑", "clip_r": "CLIP-R ↑"}


def opening(config: TrialConfig, challenge: ChallengeSet, run_dir: Path) -> str:
    """One line for the log, before PyTorch and then the model are loaded, which takes a while."""
    styles = counted(len(challenge.styles), "style")
    return f"{_title(config)}: {styles}, run folder {_near(run_dir)}; PyTorch is being loaded"


def show(result: TrialResult, config: TrialConfig) -> None:
    """Print the table of scores, the paths, and the next command."""
    console = Console()
    console.print()
    if result.metrics.get("styles"):
        console.print(_table(result.metrics, config))
    if result.final_score is not None:
        console.print(f"[bold]final score {result.final_score:.4f}[/bold]  {_label(config)}")
    for fault in result.metrics.get("faults", ()):
        if fault["severity"] == "error":
            console.print(fault["message"], style="yellow", markup=False, soft_wrap=True)
    for style, (step, reason) in result.failed.items():
        console.print(f"style {style} stopped at step {step}: {reason}", style="red", markup=False)
    console.print(f"run folder  {_near(result.run_dir)}", soft_wrap=True)
    if result.report is not None:
        console.print(f"report      {_near(result.report)}", soft_wrap=True)
    if before := _made_before(result.stages):
        console.print(f"from store  {before}", soft_wrap=True)
    if config.model.name == "mini":
        console.print(_next(config), markup=False, soft_wrap=True)


def _next(config: TrialConfig) -> str:
    """The command that does the same with the real model, on one's own set where there is one."""
    what, root = (
        ("on a real set", "DIR") if config.data.name == "sample" else ("on this set", config.data.root)
    )
    words = ["model=sd21", "model.path=FOLDER", "data=challenge", f"data.root={root}", "evaluation=challenge"]
    return (
        f"\nNext, the real model {what} (a GPU, and a Stable Diffusion 2.1 folder or hub id):\n"
        f"  python -m jdx.train {typed(words)}"
    )


def _table(metrics: Mapping[str, Any], config: TrialConfig) -> Table:
    table = Table(title=escape(_title(config)))
    table.add_column("style")
    for metric in METRICS:
        table.add_column(HEADS[metric], justify="right")
    table.add_column("FID ↓", justify="right")
    for style, scores in sorted(metrics["styles"].items()):
        table.add_row(escape(style), *(_number(scores.get(metric)) for metric in METRICS), "")
    table.add_section()
    table.add_row("all", *(_number(metrics.get(metric)) for metric in METRICS), _number(metrics.get("fid")))
    return table


def _title(config: TrialConfig) -> str:
    return f"{config.method.name} on {config.data.name}, {config.model.name}"


def _made_before(stages: Mapping[str, Mapping[str, int]]) -> str:
    """`encode 4 of 4, train 4 of 4`: what came from the store and took no time."""
    return ", ".join(
        f"{stage} {tally['reused']} of {tally['made'] + tally['reused']}"
        for stage, tally in stages.items()
        if tally["reused"]
    )


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "–"


def _label(config: TrialConfig) -> str:
    candidates = config.method.select.candidates
    words = [] if config.evaluation.judges == "challenge" else ["own judges: not a challenge score"]
    words += (
        [f"best of {candidates} candidates, chosen by the judges that score them"] if candidates > 1 else []
    )
    return f"({'; '.join(words)})" if words else ""


def _near(path: Path) -> str:
    """Relative to the current folder when that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if here in path.parents else str(path)
