"""The end of a sweep: a table, what mattered, the command of the best trial, and the same on disk."""

from __future__ import annotations

import importlib.util
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from jdx.progress import duration
from jdx.words import counted
from launcher.folder import write_atomic
from sweeps.columns import fitting, heading, short_names, short_value, table
from sweeps.ledger import PRUNED, REASON, RECORD, WARM, Ledger
from sweeps.space import Value

UPSTREAM = "optimization_results.yaml"
OURS = "results.json"
ESTIMATE, KNOWN = "~", "*"
MARKS = {ESTIMATE: "~ estimate of a trial that was stopped early", KNOWN: "* known before"}
SHOWN = 12
"""Rows of the table."""


@dataclass(frozen=True)
class Row:
    """One trial, for results.json."""

    number: int
    state: str
    params: Mapping[str, Any]
    values: Sequence[float] | None
    pruned: bool
    reason: str | None
    seconds: float | None
    gpu_seconds: float | None
    attempts: int | None
    run_dirs: Sequence[str]
    warm_start: str | None
    repetitions: Mapping[str, Sequence[float]] | None


@dataclass(frozen=True)
class Report:
    """What a sweep found."""

    study: str
    finished: int
    failed: int
    pruned: int
    best: Sequence[Row]  # the best trial, or the front of several objectives
    best_command: str | None
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    trials: Sequence[Row] = ()


def write_report(
    ledger: Ledger, folder: Path, name: str, command: Callable[[Mapping[str, Value]], str]
) -> Report:
    """Make the report, write it down, show it."""
    report = make_report(ledger, name, command)
    write_atomic(folder / OURS, json.dumps(_finite(asdict(report)), indent=1, ensure_ascii=False) + "\n")
    OmegaConf.save(OmegaConf.create(upstream(report, len(ledger.higher))), folder / UPSTREAM)
    show(report, folder)
    return report


def make_report(ledger: Ledger, name: str, command: Callable[[Mapping[str, Value]], str]) -> Report:
    """The report of a study as it is now."""
    trials = ledger.trials()
    several = len(ledger.higher) > 1
    best = ledger.front() if several else [one for one in [ledger.best()] if one is not None]
    states = Counter(trial.state for trial in ledger.counted())
    return Report(
        study=name,
        finished=states[TrialState.COMPLETE] + states[TrialState.PRUNED],
        failed=states[TrialState.FAIL],
        pruned=sum(bool(trial.user_attrs.get(PRUNED)) for trial in trials),
        best=[row_of(trial) for trial in best],
        best_command=command(best[0].params) if best else None,
        importance={} if several else importance(ledger.study),
        trials=[row_of(trial) for trial in trials],
    )


def row_of(trial: FrozenTrial) -> Row:
    """A trial as results.json tells it."""
    attrs, record = trial.user_attrs, trial.user_attrs.get(RECORD, {})
    return Row(
        number=trial.number,
        state=trial.state.name.lower(),
        params=trial.params,
        values=trial.values,
        pruned=bool(attrs.get(PRUNED)),
        reason=attrs.get(REASON),
        seconds=record.get("seconds"),
        gpu_seconds=record.get("gpu_seconds"),
        attempts=record.get("attempts"),
        run_dirs=record.get("run_dirs", []),
        warm_start=attrs.get(WARM),
        repetitions=record.get("repetitions"),
    )


def importance(study: optuna.Study) -> dict[str, dict[str, float]]:
    """How much each setting mattered, by PED-ANOVA (Watanabe et al. 2023) and, with scikit-learn, fANOVA (Hutter 2014).

    Empty where there are too few trials, or nothing varies.
    """
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if len(done) < 4 or len({trial.value for trial in done}) < 2:
        return {}
    evaluators: dict[str, Any] = {"PED-ANOVA": optuna.importance.PedAnovaImportanceEvaluator()}
    if importlib.util.find_spec("sklearn") is not None:
        evaluators["fANOVA"] = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found: dict[str, dict[str, float]] = {}
    for name, evaluator in evaluators.items():
        try:
            parts = optuna.importance.get_param_importances(study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # a space whose settings never occur together has none
            continue
        if all(map(math.isfinite, parts.values())):
            found[name] = {key: round(value, 4) for key, value in parts.items()}
    return found


def upstream(report: Report, objectives: int) -> dict[str, Any]:
    """The content of optimization_results.yaml, as hydra-optuna-sweeper writes it."""
    if objectives > 1:
        return {
            "name": "optuna",
            "solutions": [
                {"params": dict(row.params), "values": list(row.values or ())} for row in report.best
            ],
        }
    if not report.best:
        return {"name": "optuna", "best_params": None, "best_value": None}
    best = report.best[0]
    return {
        "name": "optuna",
        "best_params": dict(best.params),
        "best_value": best.values[0] if best.values else None,
    }


def show(report: Report, folder: Path) -> None:
    """Print the table and what goes with it."""
    console = Console()
    head = f"{report.finished} finished ({report.pruned} stopped early), {report.failed} failed"
    console.print(
        f"\nstudy {report.study}: {head}", style="bold", markup=False, highlight=False, soft_wrap=True
    )
    trials, below = best_first(report, console.width)
    if trials.row_count:
        console.print(trials)
    for line in below:
        console.print(line, style="dim", markup=False, highlight=False)
    for name, parts in report.importance.items():
        shares = ", ".join(f"{key} {100 * value:.0f} %" for key, value in parts.items())
        console.print(f"importance ({name}): {shares}", markup=False, soft_wrap=True)
    if failures := why_failed(report):
        console.print("why trials failed:", markup=False)
    for line in failures:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if report.best_command:
        console.print(f"the best trial again:\n  {report.best_command}", markup=False, soft_wrap=True)
    console.print(f"folder {folder}: {OURS}, {UPSTREAM}", markup=False, soft_wrap=True)


def why_failed(report: Report) -> list[str]:
    """One line for each kind of failure: how many trials, and what the first of them said."""
    kinds: dict[str, list[str]] = {}
    for row in report.trials:
        if row.state == "fail" and row.reason:
            kind, _, said = row.reason.partition(": ")
            kinds.setdefault(kind, []).append(said)
    lines = []
    for kind, texts in kinds.items():
        others = len(set(texts)) - 1
        more = f" (and {counted(others, 'other reason')})" if others else ""
        lines.append(f"{kind}, {counted(len(texts), 'trial')}" + (f": {texts[0]}{more}" if texts[0] else ""))
    return lines


def best_first(report: Report, width: int) -> tuple[Table, list[str]]:
    """The best trials as a table that fits, and what is to be said below it.

    Where there is no room the time goes first, then what mattered least.
    """
    keys = list(dict.fromkeys(key for row in report.trials for key in row.params))
    names = short_names(keys)
    heads = ["trial", "value", *(heading(names[key]) for key in keys), "time"]
    listed = _order(report)[:SHOWN]
    rows = [_cells(row, keys) for row in listed]
    mattered = next(iter(report.importance.values()), {})
    dull = sorted(keys, key=lambda key: (mattered.get(key, 0.0), -keys.index(key)))
    shown, left_out = fitting(heads, rows, width, ["time", *(heading(names[key]) for key in dull)])
    best = {one.number for one in report.best}
    styles = {i: "bold" for i, row in enumerate(listed) if row.number in best}
    marks = [text for mark, text in MARKS.items() if any(row[1].startswith(mark) for row in rows)]
    missing = (
        [f"left out, the terminal being narrow: {', '.join(left_out)} ({OURS} has all)"] if left_out else []
    )
    return table(heads, rows, styles, shown), [*marks, *missing]


def _cells(row: Row, keys: Sequence[str]) -> list[str]:
    values = ", ".join(f"{value:.5g}" for value in row.values or ())
    mark = ESTIMATE if row.pruned else KNOWN if row.warm_start and row.seconds is None else ""
    params = [short_value(row.params[key]) if key in row.params else "" for key in keys]
    return [str(row.number), mark + values, *params, duration(row.seconds) if row.seconds is not None else ""]


def _order(report: Report) -> list[Row]:
    """Best first, estimates after the measured, failures not at all."""
    done = [row for row in report.trials if row.state == "complete"]
    best = [row.number for row in report.best]
    if len(best) == 1 and done:
        anchor = report.best[0].values or [0.0]
        return sorted(done, key=lambda row: (row.pruned, abs((row.values or [math.inf])[0] - anchor[0])))
    return sorted(done, key=lambda row: (row.number not in best, row.number))


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value
