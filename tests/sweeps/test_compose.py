"""Configurations put together quickly equal those that Hydra composes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

import jdx.train  # registers the resolver that the configuration uses
from jdx import ROOT
from sweeps.compose import Composer, has_text_keys

assert jdx.train


@pytest.fixture(scope="module")
def hydra() -> Iterator[tuple[Any, DictConfig]]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="test"):
        instance = GlobalHydra.instance().hydra
        assert instance is not None
        words = ["lora.rank=4,8", "sampler=ddim,unipc"]
        yield instance.config_loader, instance.compose_config("config", words, RunMode.MULTIRUN)


POINTS = [
    ["lora.rank=8", "optim.unet.lr=0.00123", "data.styles=[1,2]", "tracker.group='a b'"],
    ["lora.rank=16", "method.styleid.layers=['7','8']", "tags=[]", "sampler.seed=null", "quiet=true"],
]
MORE = [
    ["sampler=unipc", "lora.rank=2"],
    ["+tags_more=1"],
    ["hydra.job.chdir=true"],
    ["method.init={strength:0.5}"],
]


@pytest.mark.parametrize("point", [*POINTS, *MORE], ids=str)
def test_any_point_is_what_hydra_makes_of_it(hydra: tuple[Any, DictConfig], point: list[str]) -> None:
    loader, config = hydra
    composer = Composer(loader, config, ["debug=tiny", "model=mini"])
    composer(POINTS[0])  # from here on quickly
    assert composer._quick is True
    ours, theirs = composer(point), Composer(loader, config, ["debug=tiny", "model=mini"])._whole(point)
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    assert (composer._put_in(point) is not None) == (point in POINTS)
    assert has_text_keys(ours)


def test_points_do_not_leak_into_each_other(hydra: tuple[Any, DictConfig]) -> None:
    composer = Composer(*hydra, ["lora.rank=4"])
    first, second, third = (composer([word]) for word in ("lora.rank=8", "train.steps=7", "tags=[a]"))
    assert (first["lora"]["rank"], second["lora"]["rank"], third["lora"]["rank"]) == (8, 4, 4)
    assert third["hydra"]["overrides"]["task"] == ["lora.rank=4", "tags=[a]"]
    assert third["hydra"]["job"]["override_dirname"] == "lora.rank=4,tags=[a]"


def test_misspelt_settings_are_still_refused(hydra: tuple[Any, DictConfig]) -> None:
    composer = Composer(*hydra, [])
    composer(["lora.rank=8"])
    with pytest.raises(Exception, match="rnk"):
        composer(["lora.rnk=8"])


def test_keys_that_json_would_change_are_seen() -> None:
    assert has_text_keys({"a": [{"b": 1}]})
    assert not has_text_keys({"a": [{1: 1}]})
