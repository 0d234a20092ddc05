"""What tests compose quickly is what Hydra composes from the files."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from jdx import ROOT
from tests.configs import compose_plain

VALUES = ("train.steps=7", "+train.new=3", "~sampler.negative_prompt", "tags=[a,b]", "++method.name=one")


def read_again(*overrides: str, resolve: bool) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    return OmegaConf.to_container(config, resolve=resolve)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        VALUES,
        ("method=styleid", *VALUES, "experiment=styleblend", "hydra.sweeper.n_trials=3", "train.steps=8"),
        ("train.steps=7", "method.name=two", "method={name: three}", "debug=tiny", "hydra/launcher=basic"),
    ],
)
def test_equals_hydras_own_composition(overrides: tuple[str, ...]) -> None:
    compose_plain(*overrides)["train"]["steps"] = "spoilt by a caller"
    assert compose_plain(*overrides, resolve=False) == read_again(*overrides, resolve=False)
    assert compose_plain(*overrides) == read_again(*overrides, resolve=True)


@pytest.mark.parametrize("wrong", ["nope=1", "train.step=1", "train.steps=1,2", "train.steps@x=1", "~x"])
def test_what_hydra_refuses_is_refused_in_its_words(wrong: str) -> None:
    with pytest.raises(ConfigCompositionException) as theirs:
        read_again(wrong, resolve=True)
    with pytest.raises(ConfigCompositionException) as ours:
        compose_plain(wrong)
    assert str(ours.value) == str(theirs.value)
