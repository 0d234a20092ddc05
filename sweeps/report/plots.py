"""Optuna's own plots of a study, as plotly figures in JSON."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import visualization
from optuna.trial import TrialState

log = logging.getLogger(__name__)

FEW = 2
"""Finished trials without which no plot says anything."""


@dataclass(frozen=True)
class Plot:
    """One figure (plotly's JSON, made safe for a script element), or the reason why there is none."""

    name: str
    title: str
    how: str
    figure: str = ""
    without: str = ""
    width: int = 0  # pixels that it needs; 0 = as wide as the page


def plots(study: optuna.Study, objectives: Sequence[str]) -> list[Plot]:
    """History, parallel coordinates, importance and slice of each objective; the front of several."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found = []
    if 2 <= len(objectives) <= 3:

        def front() -> Any:
            return visualization.plot_pareto_front(study, target_names=list(objectives))

        how = "each point is a trial; those of the front are beaten by none in all objectives"
        found.append(_plot("front", "Objectives against each other", how, front, len(done)))
    for i, objective in enumerate(objectives):
        found += _of_objective(study, i, objective, len(objectives) > 1, len(done))
    return found


def _of_objective(study: optuna.Study, i: int, objective: str, several: bool, done: int) -> list[Plot]:
    target: dict[str, Any] = {"target_name": objective}
    if several:
        target["target"] = lambda trial: trial.values[i]
    label = f": {objective}" if several else ""
    params = sorted({name for trial in study.get_trials(deepcopy=False) for name in trial.params})
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()

    def history() -> Any:
        return visualization.plot_optimization_history(study, **target)

    def parallel() -> Any:
        return visualization.plot_parallel_coordinate(study, **target)

    def importance() -> Any:
        shown = target if several else {}  # its axis is the importance
        return visualization.plot_param_importances(study, evaluator=evaluator, **shown)

    def slices() -> Any:
        return visualization.plot_slice(study, **target)

    asked: list[tuple[str, str, str, Callable[[], Any], int, int]] = [
        ("history", "History", "each trial's value, and the best so far; drag to zoom, double-click to go back",
         history, FEW, 0),
        ("parallel", "Parallel coordinates", "a line per trial through its settings; drag along an axis to choose some",
         parallel, FEW, 130 * (len(params) + 1)),
        ("importance", "Importance", "how much each setting decides who is among the best (PED-ANOVA, Watanabe et al. "
         "2023)", importance, 4, 0),
        ("slice", "Settings one by one", "value by setting; the shade is the trial's number", slices, FEW,
         190 * len(params)),
    ]  # fmt: skip
    return [
        _plot(f"{name}-{i}", title + label, how, draw, done, least=least, width=width)
        for name, title, how, draw, least, width in asked
    ]


def _plot(
    name: str,
    title: str,
    how: str,
    draw: Callable[[], Any],
    done: int,
    *,
    least: int = FEW,
    width: int = 0,
) -> Plot:
    if done < least:
        return Plot(name, title, how, without=f"{done} finished trials; it needs {least}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure = draw()
    except (
        ValueError,
        RuntimeError,
        ZeroDivisionError,
    ) as error:  # such as settings that never occur together
        return Plot(name, title, how, without=str(error).splitlines()[0])
    if not figure.data:
        return Plot(name, title, how, without="nothing varies that it could show")
    figure.update_layout(title=None, margin={"l": 60, "r": 30, "t": 40, "b": 60}, template=None)
    return Plot(name, title, how, for_script(figure.to_json()), width=width)


def for_script(json_text: str) -> str:
    """JSON that may stand in a script element: no text in it can end the element."""
    return json_text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
