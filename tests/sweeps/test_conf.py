"""conf/hydra and conf/sweep: every file composes, and makes what its name says."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import jdx.train  # registers the resolver that the configuration uses
from jdx import ROOT, validation
from jdx.overrides import check_overrides
from jdx.schema import leaves
from sweeps.content import content_of
from sweeps.plugin import DEFAULTS
from sweeps.samplers import PRUNERS, SAMPLERS, make_pruner, make_sampler
from sweeps.settings import Settings, build_settings
from sweeps.space import parse_space
from tests.configs import compose_plain

assert jdx.train
CONF = ROOT / "conf"
REST = {"directions": ["maximize"], "objectives": ["value"], "seeds": []}
SWEEPS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))


def sweeper(*overrides: str) -> Settings:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
    plain: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    return build_settings(plain)


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (CONF / "hydra" / "sweeper" / folder).glob("*.yaml"))


@pytest.mark.parametrize("name", names("sampler"))
def test_samplers_are_what_they_are_called(name: str) -> None:
    settings = sweeper(f"hydra/sweeper/sampler={name}", "hydra.sweeper.n_trials=3")
    assert settings.sampler["_target_"] == SAMPLERS["tpe" if name in {"auto", "motpe"} else name]
    if name != "grid":  # ours
        assert isinstance(make_sampler(settings.sampler), optuna.samplers.BaseSampler)


def test_all_samplers_and_pruners_have_a_file() -> None:
    assert set(names("sampler")) == {*SAMPLERS, "auto", "motpe"}
    assert set(names("pruner")) | {"percentile", "threshold"} == set(PRUNERS)


@pytest.mark.parametrize("name", names("pruner"))
def test_pruners_are_what_they_are_called(name: str) -> None:
    pruner = make_pruner(sweeper(f"hydra/sweeper/pruner={name}").pruner)
    assert (pruner is None) == (name == "none")


@pytest.mark.parametrize("name", SWEEPS)
def test_ready_spaces_name_real_settings(name: str) -> None:
    settings = sweeper(f"sweep={name}")
    space = parse_space(settings.params or {}, [])
    assert len(space.dimensions) == len(settings.params or {}) >= 1
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        words = space.words(space.suggest(study.ask(), {}))
        check_overrides(words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"sweep={name}", *words])
    for word in words:
        key, _, value = word.partition("=")
        if key not in {"method", "sampler"}:
            assert OmegaConf.select(config, key) == OmegaConf.create(f"x: {value}").x


def searched(*overrides: str) -> dict[str, list[Any]]:
    """{setting: its values} of those that can be counted."""
    dimensions = parse_space(sweeper(*overrides).params or {}, []).dimensions
    return {key: list(dim.values) for key, dim in dimensions.items() if dim.values is not None}


def test_steps_are_searched_around_the_models_and_the_samplers_own() -> None:
    assert searched("sweep=lora", "model=sd21")["train.steps"] == [250, 500, 800, 1200]
    assert searched("sweep=lora", "model=mini")["train.steps"] == [200, 400, 640, 960]
    assert searched("sweep=sampler", "model=sd21")["sampler.steps"] == [15, 25, 40, 60]


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_made_tiny_is_quick_and_all_its_points_are_valid(name: str) -> None:
    base = [f"sweep={name}", "debug=tiny"]
    space = parse_space(sweeper(*base).params or {}, [])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    for _ in range(20):
        words = space.words(space.suggest(study.ask(), {}))
        trial = validation.build(compose_plain(*base, *words))
        assert trial.train.steps <= 10
        assert trial.sampler.steps <= 10
        assert trial.method.styleid.steps <= 5


def test_keys_of_upstream_are_accepted() -> None:
    settings = sweeper(
        "hydra/sweeper=optuna", "hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.seed=123",
        "hydra.sweeper.direction=minimize", "hydra.sweeper.study_name=sphere", "hydra.sweeper.storage=sqlite:///a.db",
        "hydra.sweeper.n_trials=20", "hydra.sweeper.n_jobs=1", "hydra.sweeper.max_failure_rate=0.0",
        "+hydra.sweeper.params.x='interval(-5.5,5.5)'", "hydra.sweeper.custom_search_space=a.b",
    )  # fmt: skip
    assert settings.directions == ["minimize"]
    assert settings.params == {"x": "interval(-5.5,5.5)"}
    assert settings.sampler["seed"] == 123


def test_other_applications_get_the_same_defaults() -> None:
    ours = plain_settings(sweeper())
    theirs = plain_settings(build_settings(DEFAULTS | {"direction": "maximize"}))
    assert {key for key in ours if ours[key] != theirs[key]} == {
        "sampler",
        "pruner",
        "not_content",
        "preflight",
    }


@pytest.mark.parametrize(
    "setting",
    [
        "backend.devices=[cpu]",
        "backend.memory=3.0",
        "train.checkpoint_every=7",
        "train.log_every=3",
        "quiet=true",
    ],
)
def test_what_cannot_change_a_score_does_not_make_another_study(setting: str) -> None:
    def digest(*overrides: str) -> str:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config: Any = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=False)
        return content_of(parse_space({}, ["lora.rank=4,8"]), config, sweeper().not_content, REST).digest

    assert digest(setting) == digest()
    assert digest("train.steps=7") != digest()


def test_not_content_names_real_settings() -> None:
    known = {*leaves(), "launcher"}
    assert all(
        any(key == name or key.startswith(f"{name}.") for key in known) for name in sweeper().not_content
    )


def plain_settings(settings: Settings) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def test_files_of_conf_hydra_are_all_looked_at() -> None:
    there = {path.relative_to(CONF / "hydra").as_posix() for path in (CONF / "hydra").rglob("*.yaml")}
    parts = [f"sweeper/{group}/{name}.yaml" for group in ("sampler", "pruner") for name in names(group)]
    assert there == {*parts, "sweeper/optuna.yaml"}
    assert Path(CONF / "sweep").is_dir()
