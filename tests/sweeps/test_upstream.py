"""Configurations that people have from hydra-optuna-sweeper: taken as they are, or told what to write."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from jdx.errors import ConfigError
from sweeps.samplers import AUTO, make_sampler
from sweeps.settings import Settings, build_settings
from sweeps.space import parse_space
from sweeps.upstream import Translation
from tests.sweeps.test_conf import sweeper

TPE = {"_target_": "optuna.samplers.TPESampler", "seed": 1}


def settings(**given: Any) -> Settings:
    return build_settings({"sampler": TPE, "direction": "maximize", **given})


SPACE: dict[str, tuple[dict[str, Any], BaseDistribution]] = {
    "a": ({"type": "int", "low": 1, "high": 10, "step": 3}, IntDistribution(1, 10, step=3)),
    "b": ({"type": "int", "low": 1, "high": 9}, IntDistribution(1, 9)),
    "c": ({"type": "int", "low": 1, "high": 64, "log": True}, IntDistribution(1, 64, log=True)),
    "d": ({"type": "float", "low": 0, "high": 1, "step": 0.1}, FloatDistribution(0.0, 1.0, step=0.1)),
    "e": ({"type": "float", "low": 1e-5, "high": 1e-2, "log": True}, FloatDistribution(1e-5, 1e-2, log=True)),
    "f": ({"type": "float", "low": -5.5, "high": 5}, FloatDistribution(-5.5, 5.0)),
    "g": (
        {"type": "categorical", "choices": ["a", "1", 2, 0.5, True, None, "x,y"]},
        CategoricalDistribution(("a", "'1'", 2, 0.5, True, None, "'x,y'")),
    ),
    "h": ({"type": "categorical", "choices": ["only"]}, CategoricalDistribution(("only",))),
}
"""A setting in the form of 1.1, and Optuna's distribution of it; texts are pieces of an override."""


def test_search_space_becomes_params() -> None:
    built = settings(search_space={key: told for key, (told, _) in SPACE.items()})
    space = parse_space(built.params or {}, [])
    assert {key: dim.distribution for key, dim in space.dimensions.items()} == {
        key: distribution for key, (_, distribution) in SPACE.items()
    }


@pytest.mark.parametrize("empty", [None, {}])
def test_an_empty_search_space_is_none(empty: Any) -> None:
    assert settings(search_space=empty, params={"x": "choice(1,2)"}).params == {"x": "choice(1,2)"}


def test_params_win_over_search_space() -> None:
    translation = Translation(
        {"search_space": {"x": {"type": "int", "low": 1, "high": 2}}, "params": {"y": "1,2"}}
    )
    assert translation.settings["params"] == {"y": "1,2"}
    assert "params is given, which wins" in translation.notes[0]


def test_faults_of_a_search_space_say_what_to_write() -> None:
    space = {"x": {"type": "int", "low": 1}, "y": {"type": "text"}, "z": 3}
    with pytest.raises(ConfigError) as caught:
        settings(search_space=space)
    said = str(caught.value)
    assert len(caught.value.faults) == 3
    assert "search_space.x = {'type': 'int', 'low': 1}\n      high is missing" in said
    assert "write hydra.sweeper.params: {y: 'choice(a,b)'}" in said


def test_storage_of_optunas_class_is_its_url() -> None:
    given = {
        "_target_": "optuna.storages.RDBStorage",
        "url": "postgresql://me:s3cret@host/db",
        "engine_kwargs": {"pool_size": 3},
    }
    built = settings(storage=given | {"heartbeat_interval": None})
    assert (built.storage, built.storage_engine) == ("postgresql://me:s3cret@host/db", {"pool_size": 3})
    assert Translation({"storage": given}).notes == [
        "hydra.sweeper.storage is read as hydra.sweeper.storage=postgresql://me:***@host/db"
    ]


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        ({"_target_": "optuna.storages.JournalStorage"}, "postgresql://user@host/database a server"),
        ({"_target_": "optuna.storages.InMemoryStorage"}, "null is SQLite in the sweep's folder"),
        (
            {"_target_": "optuna.storages.RDBStorage", "url": "sqlite:///a.db", "heartbeat_interval": 60},
            "storage.heartbeat_interval = 60",
        ),
    ],
)
def test_other_storages_are_told_what_to_write(storage: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(storage=storage)
    assert told in str(caught.value)
    assert len(caught.value.faults) == 1


def test_motpe_is_tpe() -> None:
    """By the group, by the name, and with the settings that it had."""
    for built in (
        sweeper("hydra/sweeper/sampler=motpe", "hydra.sweeper.sampler.n_ehvi_candidates=7"),
        settings(sampler={"_target_": "optuna.samplers.MOTPESampler", "n_ehvi_candidates": 7}),
    ):
        sampler = make_sampler(built.sampler)
        assert isinstance(sampler, optuna.samplers.TPESampler)
        assert built.sampler["n_ei_candidates"] == 7
    assert isinstance(make_sampler(settings(sampler="motpe").sampler), optuna.samplers.TPESampler)


def test_samplers_within_samplers() -> None:
    given = {
        "_target_": "optuna.samplers.CmaEsSampler",
        "independent_sampler": {"_target_": "optuna.samplers.QMCSampler", "seed": 3, "scramble": True},
    }
    sampler: Any = make_sampler(settings(sampler=given).sampler)
    assert isinstance(sampler._independent_sampler, optuna.samplers.QMCSampler)
    crossover = {"_target_": "optuna.samplers.nsgaii.UniformCrossover", "swapping_prob": 0.3}
    genetic: Any = make_sampler({"_target_": "optuna.samplers.NSGAIISampler", "crossover": crossover})
    assert isinstance(genetic, optuna.samplers.NSGAIISampler)


def test_a_sampler_of_ones_own_is_merged_over_auto() -> None:
    """A file that sets `sampler: {_target_: ..., seed: 1}` leaves what `auto` had beside it."""
    words = [
        "hydra.sweeper.sampler._target_=optuna.samplers.RandomSampler", "hydra.sweeper.sampler.seed=1"
    ]  # fmt: skip
    built = sweeper(*words)
    assert AUTO.items() <= built.sampler.items()
    assert isinstance(make_sampler(built.sampler), optuna.samplers.RandomSampler)
    with pytest.raises(ConfigError, match=r"sampler\.n_ei_candidates = 7"):
        make_sampler(sweeper(*words, "hydra.sweeper.sampler.n_ei_candidates=7").sampler)  # meant
    assert isinstance(make_sampler(TPE), optuna.samplers.TPESampler)


def test_a_missing_direction_names_both_and_upstreams_default() -> None:
    with pytest.raises(ConfigError, match="hydra-optuna-sweeper takes minimize"):
        build_settings({"sampler": TPE})
