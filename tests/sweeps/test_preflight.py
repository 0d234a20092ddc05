"""Which points an application looks at before the first trial."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from optuna.trial import Trial

from jdx.errors import ConfigError
from sweeps.compose import Composer
from sweeps.preflight import MOST, configs, load_preflight, some_points
from sweeps.space import Space, Value, parse_space

optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_a_small_grid_is_looked_at_whole() -> None:
    space = parse_space({}, ["a=1,2,3", "b=x,y", "c=range(0,2)"])
    assert list(some_points(space, {})) == space.combinations()


@pytest.mark.parametrize(
    "words",
    [
        [f"a={','.join(map(str, range(50)))}", "b=x,y,z"],
        [f"a={','.join(map(str, range(200)))}"],
        ["a=true,null,1.5,x", "b=interval(0.1,1)"],
    ],
)
def test_every_listed_value_is_among_the_points_of_a_large_space(words: list[str]) -> None:
    space = parse_space({}, words)
    points = list(some_points(space, {}))
    assert points == list(some_points(space, {}))
    assert len(points) == max([MOST, *(len(dim.values or ()) for dim in space.dimensions.values())])
    for key, dim in space.dimensions.items():
        if dim.kind == "choice":
            assert {repr(point[key]) for point in points} == set(map(repr, dim.values or ()))
        else:
            assert len({point[key] for point in points}) == len(points)


def test_lists_of_one_length_are_not_walked_in_step() -> None:
    values = ",".join(map(str, range(40)))
    points = list(some_points(parse_space({}, [f"a={values}", f"b={values}"]), {}))
    assert len({(int(str(p["a"])) - int(str(p["b"]))) % 40 for p in points}) > 10


def test_settings_of_a_function_are_among_the_points() -> None:
    def hook(trial: Trial, config: Any) -> None:
        if trial.params["a"] == 1:
            trial.suggest_categorical("data.root", ["/x", "/y"])

    space = Space(parse_space({}, ["a=1,2"]).dimensions, (), hook, "hook")
    assert {point.get("data.root") for point in some_points(space, {})} == {"/x", "/y", None}


def test_points_become_configurations_when_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "kind").mkdir()
    (tmp_path / "kind" / "one.yaml").write_text("name: one\n")
    (tmp_path / "config.yaml").write_text("defaults:\n  - kind: one\n  - _self_\nx: 1\ntwice: ${x}\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config", return_hydra_config=True)
    loader = ConfigLoaderImpl(create_config_search_path(str(tmp_path)))
    config.hydra.job.config_name = "config"
    points: Iterator[dict[str, Value]] = iter([{"kind": "two"}, {"x": 2}, {"x": 3}])
    seen = configs(Composer(loader, config, []), points, lambda point: [f"{k}={v}" for k, v in point.items()])
    first = next(seen)  # there is no kind=two: the trial that gets it tells so
    assert (first.twice, first.kind.name, "hydra" in first) == (2, "one", False)
    assert list(points) == [{"x": 3}]
    assert list(seen) == []


@pytest.mark.parametrize("name", ["nowhere.look", "sweeps.preflight.gone", "sweeps.preflight.MOST", "look"])
def test_a_function_that_is_none_is_a_fault(name: str) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.preflight.*\n.*give module\.function"):
        load_preflight(name)
    assert load_preflight(None) is None
