"""Samplers and pruners by name and by target."""

import warnings
from typing import Any

import optuna
import pytest

from jdx.errors import ConfigError
from sweeps.samplers import PRUNERS, SAMPLERS, PlanSampler, make_pruner, make_sampler
from sweeps.space import parse_space


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"grid"}))
def test_every_sampler_chooses(name: str) -> None:
    counted = name == "brute_force"
    space = parse_space({}, ["x=range(1,9)", "y=1,2" if counted else "y=tag(log,interval(1e-3,1.0))"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(
            sampler=make_sampler({"_target_": SAMPLERS[name], "seed": 3, "grid_when_finite": 1})
        )
        for _ in range(12):
            trial = study.ask()
            params = space.suggest(trial, {})
            study.tell(trial, float(params["x"] or 0))
    assert all(1 <= trial.params["x"] <= 8 for trial in study.trials)


@pytest.mark.parametrize(
    "spec", ["tpo", {"_target_": "nowhere.Sampler"}, {"_target_": "optuna.samplers.TPESampler", "sed": 1}, 5]
)
def test_wrong_samplers_are_told_with_the_valid_ones(spec: Any) -> None:
    with pytest.raises(ConfigError, match="cmaes"):
        make_sampler(spec)


def test_pruners() -> None:
    assert make_pruner(None) is None
    assert make_pruner("none") is None
    assert isinstance(
        make_pruner({"_target_": PRUNERS["wilcoxon"], "p_threshold": 0.05}), optuna.pruners.WilcoxonPruner
    )
    assert isinstance(make_pruner("median"), optuna.pruners.MedianPruner)
    with pytest.raises(ConfigError, match="wilcoxon"):
        make_pruner("willcoxon")


def test_plan_gives_each_number_its_point() -> None:
    space = parse_space({}, ["x=1,2,3", "y=a,b"])
    points = space.combinations()
    study = optuna.create_study(sampler=PlanSampler(points))
    assert [space.suggest(study.ask(), {}) for _ in points] == points
