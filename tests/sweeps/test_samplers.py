"""Samplers and pruners by name and by target."""

import warnings
from dataclasses import replace
from typing import Any

import optuna
import pytest

from jdx.errors import ConfigError
from sweeps.plan import PlanSampler, every_point
from sweeps.samplers import PRUNERS, SAMPLERS, make_pruner, make_sampler
from sweeps.space import parse_space


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"grid"}))
def test_every_sampler_chooses(name: str) -> None:
    space = parse_space(
        {}, ["x=range(1,9)", "y=1,2" if name == "brute_force" else "y=tag(log,interval(1e-3,1.0))"]
    )
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
    "spec",
    ["tpo", {"_target_": "nowhere.Sampler"}, {"_target_": "optuna.samplers.TPESampler", "seed": "x"}, 5],
)
def test_wrong_samplers_are_told_with_the_valid_ones(spec: Any) -> None:
    with pytest.raises(ConfigError, match="cmaes"):
        make_sampler(spec)


def test_a_misspelt_setting_is_told_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.sed = 1\n +[\s\S]*n_startup_trials, prior_weight, seed"):
        make_sampler({"_target_": "optuna.samplers.TPESampler", "sed": 1})


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


def conditions(trial: optuna.Trial, config: Any) -> None:
    if trial.params["shape"] == "square":
        trial.suggest_int("side", 1, 3)
        if trial.suggest_float("slope", 0.0, 0.3, step=0.1) > config["steep"]:
            trial.suggest_categorical("mark", ("a", "b"))
    trial.suggest_categorical("last", (None, True))


@pytest.mark.filterwarnings("ignore:BruteForceSampler is experimental")
def test_every_point_is_what_brute_force_visits() -> None:
    """Against Optuna's own sampler, which finds the same points one by one in another order."""
    space = replace(parse_space({}, ["shape=round,square", "x=range(1,6,2)"]), hook=conditions)
    config = {"steep": 0.15}
    seen = []

    def objective(trial: optuna.Trial) -> float:
        seen.append(space.suggest(trial, config))
        return 0.0

    optuna.create_study(sampler=optuna.samplers.BruteForceSampler(seed=1)).optimize(objective)
    points = every_point(space, config)
    assert len(points) == len(seen) == 3 * 2 + 3 * 3 * (2 + 2 * 2) * 2
    key = [sorted(point.items(), key=str) for point in points]
    assert sorted(map(str, key)) == sorted(str(sorted(point.items(), key=str)) for point in seen)
    shuffled = every_point(space, config, seed=3)
    assert shuffled != points
    assert sorted(map(str, shuffled)) == sorted(map(str, points))
    study = optuna.create_study(sampler=PlanSampler(points))
    assert [space.suggest(study.ask(), config) for _ in points] == points


def test_endless_and_huge_spaces_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"x = interval\(0\.0,1\.0\)\n +has no end of values"):
        every_point(parse_space({}, ["x=interval(0.0,1.0)"]), {})
    space = parse_space({}, ["x=0,1"])

    def endless(trial: optuna.Trial, config: Any) -> None:
        trial.suggest_float("y", 0, 1)

    with pytest.raises(ConfigError, match=r"y = interval\(0\.0,1\.0\)\n +has no end of values"):
        every_point(replace(space, hook=endless), {})

    def many(trial: optuna.Trial, config: Any) -> None:
        trial.suggest_int("y", 1, 5)

    monkeypatch.setattr("sweeps.plan.MOST", 9)
    with pytest.raises(ConfigError, match="more than 9 points"):
        every_point(replace(space, hook=many), {})
