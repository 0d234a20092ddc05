"""Every file in conf/ composes and is valid; adding one without it being reachable fails the count."""

import pytest

from jdx import ROOT
from jdx.methods.prompts import write
from jdx.schema import StyleWords
from jdx.tables import style_table
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
    blend = build(compose_plain("model=sd21", "experiment=styleblend"))
    assert (blend.train.steps, blend.method.tokens.steps, blend.optim.unet.start_step) == (1000, 500, 500)
    assert (blend.lora.unet.rank, blend.lora.text_encoder.rank, blend.optim.unet.lr) == (16, 0, 5e-4)
    coarse = blend.method.blend.coarse
    assert (coarse.train, coarse.steps, coarse.rank, coarse.lr, coarse.lora_scale) == (
        True,
        300,
        16,
        1e-4,
        0.3,
    )
    some = coarse.candidates
    assert (some.per_reference, some.keep, some.strengths, some.sampler.steps) == (
        15,
        10,
        [0.75, 0.8, 0.85],
        20,
    )
    assert (blend.method.blend.c2f.share, blend.method.blend.f2c.share, blend.sampler.steps) == (0.8, 0.6, 30)
    pack = build(compose_plain("model=sd21", "experiment=joint_pack"))
    assert (pack.lora.joint, pack.lora.unet.rank, pack.lora.text_encoder.rank) == (True, 28 * 32, 28 * 32)
    assert (pack.lora.dropout, pack.optim.unet.lr, pack.train.steps) == (0.1, 1e-5, 40_000)
    best = build(compose_plain("model=sd21", "experiment=best_stack"))
    assert best.method.styleid.enabled
    assert best.method.prior.weight == 1.0


def test_stylebooth_draws_with_its_own_words() -> None:
    trial = build(compose_plain("model=sd21", "experiment=stylebooth"))
    words = style_table("method.prompts.styles", trial.method.prompts.styles)
    assert set(words) == {f"{number:02d}" for number in range(28)} | {"*"}
    prompt = write(trial.method.prompts.generate, object="Dog", style="02", **_words(words["02"]))
    assert prompt == "a Dog in style_02 Made_of_Clay"  # as its program prints it
    prompt = write(trial.method.prompts.generate, object="Ice cream", style="12", **_words(words["12"]))
    assert prompt == "Ice cream in style_12,made_of_lego"
    assert (trial.method.styleid.gamma, trial.method.styleid.reference_every, trial.lora.dropout) == (
        0.7,
        8,
        0.01,
    )
    assert (trial.train.steps, trial.train.crop.rotation, trial.sampler.steps) == (800, 10.0, 50)


def _words(style: StyleWords) -> dict[str, str]:
    return {"prefix": style.prefix, "phrase": style.phrase}


def test_styleid_recipes_carry_their_published_numbers() -> None:
    plain = build(compose_plain("model=sd21", "experiment=styleid"))
    assert (plain.method.train, plain.method.styleid.gamma, plain.method.styleid.steps) == (False, 0.7, 50)
    report = build(compose_plain("model=sd21", "experiment=styleid_report"))
    assert report.method.styleid.layers == ["6", "7", "8", "9", "10", "11"]
    assert (report.method.styleid.temperature, report.method.styleid.gamma) == (1.8, 0.75)
    assert (report.method.styleid.reference, report.method.train) == ("random_per_style", True)
    assert (report.lora.unet.rank, report.sampler.steps) == (4, 25)


@pytest.mark.parametrize(("name", "rates"), [("a", (1e-4, 6e-5, 1e-4)), ("b", (4e-5, 3e-5, 1e-3))])
def test_enhancer_recipes_carry_their_published_numbers(name: str, rates: tuple[float, ...]) -> None:
    recipe = build(compose_plain("model=sd21", f"experiment=vae_enhancer_{name}"))
    enhancer, optim = recipe.method.enhancer, recipe.optim
    assert (optim.unet.lr, optim.text_encoder.lr, enhancer.lr) == rates
    assert (enhancer.enabled, enhancer.weight, enhancer.zero) == (True, 0.01, "first")
    assert (recipe.train.steps, recipe.sampler.steps, recipe.lora.text_encoder.rank) == (700, 70, 4)
    assert "ff.net.0.proj" in recipe.lora.unet.targets
    assert recipe.sampler.negative_prompt.startswith("text, logos, worst quality")
    assert bool(recipe.method.prompts.styles) == (name == "b")
