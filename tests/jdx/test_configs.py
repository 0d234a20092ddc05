"""Every file in conf/ composes and is valid; adding one without it being reachable fails the count."""

import pytest

from jdx import ROOT
from jdx.validation import build
from tests.configs import compose_plain

CONF = ROOT / "conf"
GROUPS = sorted(
    path.name
    for path in CONF.iterdir()
    if path.is_dir() and path.name not in {"local", "hydra"} and any(path.glob("*.yaml"))
)
CHOICES = sorted(f"{group}={path.stem}" for group in GROUPS for path in (CONF / group).glob("*.yaml"))
# What a choice needs beside itself: a set has to be somewhere, and `parts` is what methods are made from.
NEEDS = {"data=challenge": ["data.root=somewhere"], "method=parts": ["method.name=own"]}


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_composes_and_is_valid(choice: str) -> None:
    build(compose_plain(choice, *NEEDS.get(choice, [])))


def test_all_files_are_reached() -> None:
    files = {path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")} - {"config.yaml"}
    files -= {name for name in files if name.startswith(("local/", "hydra/"))}  # tests/sweeps has hydra's
    reached = {choice.replace("=", "/") + ".yaml" for choice in CHOICES}
    assert files == reached


@pytest.mark.parametrize("sampler", [choice for choice in CHOICES if choice.startswith("sampler=")])
def test_samplers_keep_what_is_set_beside_them(sampler: str) -> None:
    trial = build(compose_plain(sampler, "train.resolution=256", "sampler.negative_prompt=blur"))
    assert (trial.sampler.name, trial.sampler.resolution) == (sampler.split("=")[1], 256)


@pytest.mark.parametrize("experiment", [choice for choice in CHOICES if choice.startswith("experiment=")])
def test_debug_makes_every_recipe_tiny(experiment: str) -> None:
    trial = build(compose_plain(experiment, "debug=tiny"))
    assert trial.train.steps <= 5
    assert trial.sampler.steps <= 5
    assert trial.data.max_prompts is not None


def test_methods_differ_from_each_other() -> None:
    names = [choice for choice in CHOICES if choice.startswith("method=") and choice != "method=parts"]
    methods = [str(compose_plain(name)["method"]) for name in names]
    assert len(set(methods)) == len(names)


def test_recipes_carry_their_published_numbers() -> None:
    safe = build(compose_plain("model=sd21", "experiment=jdiffartflow_safe"))
    assert (safe.lora.unet.rank, safe.train.steps, safe.method.prior.weight, safe.method.prior.per_word) == (
        32,
        800,
        1,
        8,
    )
    assert (safe.method.init.picture, safe.method.init.strength, safe.sampler.steps) == ("average", 0.9, 40)
    aggressive = build(compose_plain("model=sd21", "experiment=jdiffartflow_aggressive"))
    assert (aggressive.lora.unet.rank, aggressive.lora.text_encoder.rank, aggressive.train.steps) == (
        64,
        8,
        1200,
    )
    assert (aggressive.optim.text_encoder.lr, aggressive.method.prior.weight) == (1e-5, 0.9)
    assert aggressive.method.init.picture == "average"
    assert (aggressive.train.crop.flip, aggressive.train.crop.rotation) == (0.5, 10.0)
    jstyleid = build(compose_plain("model=sd21", "experiment=styleid_dreambooth"))
    assert (jstyleid.train.crop.flip, jstyleid.train.crop.rotation) == (0.5, 10.0)
    pad = build(compose_plain("model=sd21", "experiment=pad_pad_eos"))
    assert (pad.method.prior.fraction, pad.method.prior.weight, pad.method.prior.per_word) == (0.5, 0.0, 5)
    assert pad.train.steps * pad.train.batch_size == 4 * 512
    assert (pad.optim.unet.lr, pad.method.init.strength, pad.sampler.steps) == (8e-4, 0.8, 40)
    baseline = build(compose_plain("model=sd21", "experiment=baseline"))
    assert (baseline.lora.unet.rank, baseline.lora.unet.targets) == (4, ["to_q", "to_k", "to_v"])
    assert (baseline.train.steps, baseline.sampler.steps, baseline.method.prompts.train) == (
        500,
        25,
        "style_{style}",
    )
    best = build(compose_plain("model=sd21", "experiment=best_stack"))
    assert best.method.styleid.enabled
    assert best.method.prior.weight == 1.0
