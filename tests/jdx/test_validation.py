"""All faults of a request at once, each with its key, its value and what is allowed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jdx.errors import ConfigError
from jdx.overrides import check_overrides
from jdx.validation import anchored, borrowed, build
from tests.configs import compose_plain

Faults = dict[str, str]


def faults_of(*overrides: str) -> Faults:
    with pytest.raises(ConfigError) as caught:
        build(compose_plain(*overrides))
    return {fault.key: f"{fault.value}: {fault.allowed}" for fault in caught.value.faults}


def test_defaults_are_valid_and_rank_sets_the_unet() -> None:
    trial = build(compose_plain("lora.rank=32"))
    assert (trial.lora.unet.rank, trial.lora.text_encoder.rank) == (32, 0)
    assert trial.sampler.resolution == trial.train.resolution == trial.model.resolution


def test_every_fault_is_reported_together() -> None:
    faults = faults_of(
        "data=challenge",
        "lora.text_encoder.rank=-1",
        "optim.unet.lr=fast",
        "sampler.steps=0",
        "sampler.name=dim",
        "train.seed=true",
        "train.resolution=100",
        "+sampler.stepz=4",
    )
    assert set(faults) == {
        "data.root", "lora.text_encoder.rank", "optim.unet.lr", "sampler.steps", "sampler.name", "train.seed",
        "train.resolution", "sampler.resolution", "sampler.stepz",
    }  # fmt: skip
    assert "no default" in faults["data.root"]
    assert "greater than or equal to 0" in faults["lora.text_encoder.rank"]
    assert "'ddim', 'unipc', 'dpmpp' or 'euler'" in faults["sampler.name"]
    assert "did you mean sampler.steps" in faults["sampler.stepz"]
    assert faults["train.seed"].startswith("True")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lora.rank=-1"], {"lora.rank"}),
        (["method.lora_rank=-1"], {"method.lora_rank"}),
        (["lora.unet.rank=-1"], {"lora.unet.rank"}),
        (["lora.rank=-1", "lora.unet.rank=-2"], {"lora.rank", "lora.unet.rank"}),
        (["train.resolution=100", "lora.dora=1"], {"train.resolution", "lora.dora"}),
        (["method.lora_rank=2000", "sampler.steps=0"], {"method.lora_rank", "sampler.steps"}),
    ],
)
def test_a_wrong_value_is_told_once_under_the_name_that_was_written(words: list[str], told: set[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(compose_plain(*words), borrowed(compose_plain(*words, resolve=False)))
    assert {fault.key for fault in caught.value.faults} == told
    assert len(caught.value.faults) == len(told)


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("train.snapshots=[600]", "train.snapshots", "at most train.steps = 400"),
        ("lora.rank=0", "lora.unet.rank", "nothing would be trained"),
        ("lora.unet.targets=[]", "lora.unet.targets", "at least one module"),
        ("method.prompts.generate='a {objet}'", "method.prompts.generate", "placeholder"),
        ("method.prompts.train='a {object'", "method.prompts.train", "not a template"),
        ("method.prompts.generate='in style_{style}'", "method.prompts.generate", "without {object}"),
        ("sampler.seeds=nowhere.json", "sampler.seeds", "no such file"),
        ("evaluation.judges=mine", "evaluation.judges", "judges.json"),
        ("optim.warmup_steps=501", "optim.warmup_steps", "at most train.steps"),
        ("optim.unet.lr=.inf", "optim.unet.lr", ""),
        ("optim.schedule=step", "optim.step_size", "such as 200"),
        ("method.prior.fraction=1.0", "method.prior.fraction", "less than 1"),
        ("train.crop.rotation=181.0", "train.crop.rotation", "180"),
        ("train.min_snr_gamma=0.0", "train.min_snr_gamma", "greater than 0"),
        ("backend.device=gpu", "backend.device", "'gpu': must be auto, cpu, cuda, or one card"),
        ("backend.devices=[gpu]", "backend.devices.0", "must be cpu, or a card such as cuda:0"),
        ("backend.devices=cuda", "backend.devices", "must be 'auto'; or must be a list in brackets"),
        ("data.styles=[[1]]", "data.styles.0", "must be a text"),
        ("method.prompts.styles=3", "method.prompts.styles", "must be a mapping in braces"),
        ("method.init.picture=nowhere.png", "method.init.picture", "average"),
        ("method.styleid.reference=first", "method.styleid.reference", "rotate"),
        ("method.tokens.vectors=65", "method.tokens.vectors", "less than or equal to 64"),
        ("method.tokens.init=''", "method.tokens.init", "is empty"),
        ("method.tokens.vectors=1", "method.prompts.train", "does not say {token}"),
        ("method.tokens.vectors=1", "method.prompts.generate", "does not say {token}"),
        ("method.prompts.train='{object} {token}'", "method.prompts.train", "method.tokens.vectors=1"),
        ("method.prompts.generate='{object} {token}'", "method.prompts.generate", "method.tokens.vectors=1"),
        (
            "method.prompts.styles={5:{generate:'{object} {token}'}}",
            "method.prompts.styles.5.generate",
            "learnt",
        ),
        ("method.prior.caption='{object} {token}'", "method.prior.caption", "unknown placeholder {token}"),
        (
            "method.blend.coarse.prompt='{object} {token}'",
            "method.blend.coarse.prompt",
            "placeholder {token}",
        ),
        ("optim.unet.start_step=400", "optim.unet.start_step", "below train.steps = 400"),
        ("optim.unet.start_step=9", "optim.unet.start_step", "nothing would learn in steps 1 to 9"),
        ("train.crop.flip_tag=',mirrored'", "train.crop.flip_tag", "no view is mirrored"),
        ("method.blend.c2f.share=1.1", "method.blend.c2f.share", "less than or equal to 1"),
        ("method.blend.f2c.share=-0.1", "method.blend.f2c.share", "greater than or equal to 0"),
        ("method.blend.coarse.prompt='A {objet}'", "method.blend.coarse.prompt", "placeholder"),
        ("method.blend.coarse.lora_scale=5", "method.blend.coarse.lora_scale", "less than or equal to 4"),
    ],
)
def test_single_faults_say_what_to_do(override: str, key: str, words: str) -> None:
    faults = faults_of(override)
    assert words in faults[key]


def test_a_value_that_fits_no_member_of_a_union_is_one_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        build(compose_plain("backend.devices=[gpu]", "method.styleid.reference=[1]"))
    assert [fault.key for fault in caught.value.faults] == ["method.styleid.reference", "backend.devices.0"]


def test_decaying_rate_cannot_have_snapshots() -> None:
    assert "not a prefix" in faults_of("optim.schedule=cosine", "train.snapshots=[100]")["train.snapshots"]


def test_strength_that_runs_no_step_is_refused() -> None:
    faults = faults_of("method=average", "method.init.strength=0.01", "sampler.steps=20")
    assert "at least 0.05" in faults["method.init.strength"]


def test_prior_without_training_is_refused() -> None:
    assert "method.prior.weight" in faults_of("method=base", "method.prior.weight=1.0")
    assert "method.prior.fraction" in faults_of("method=base", "method.prior.fraction=0.5")


def test_prior_by_weight_and_by_share_exclude_each_other() -> None:
    assert (
        "method.prior.weight=0 or"
        in faults_of("method=prior", "method.prior.fraction=0.5")["method.prior.fraction"]
    )


def test_blending_needs_two_different_branches_that_meet() -> None:
    faults = faults_of(
        "method=blend", "method.train=false", "method.blend.c2f.layers=[]", "method.blend.c2f.share=0.0"
    )
    assert "untouched base" in faults["method.blend.enabled"]
    assert "nothing would reach the fine branch" in faults["method.blend.c2f.layers"]
    assert "nothing would reach the fine branch" in faults["method.blend.c2f.share"]


def test_candidates_that_cannot_be_drawn_or_kept_are_told() -> None:
    key = "method.blend.coarse.candidates"
    faults = faults_of(
        "method=blend", "method.blend.coarse.train=true", f"{key}.keep=16", f"{key}.strengths=[0.04,0.8,0.8]",
        key + ".prompt='a {style}'", "lora.text_encoder.targets=[]",
    )  # fmt: skip
    assert "at most per_reference = 15" in faults[f"{key}.keep"]
    assert f"leaves none of {key}.sampler.steps = 20" in faults[f"{key}.strengths"]
    assert "unknown placeholder {style}" in faults[f"{key}.prompt"]
    assert "the coarse branch trains them" in faults["lora.text_encoder.targets"]


def test_a_joint_adapter_is_trained_and_has_nothing_that_belongs_to_one_style() -> None:
    faults = faults_of("lora=joint", "method=base", "method.enhancer.enabled=true")
    assert "nothing is trained" in faults["lora.joint"]
    assert "belongs to one style" in faults["method.enhancer.enabled"]


def test_enhancer_that_could_do_nothing_is_refused() -> None:
    faults = faults_of("method=base", "method.enhancer.enabled=true", "method.enhancer.weight=0.0")
    assert "without training" in faults["method.enhancer.enabled"]
    assert "above 0 (0.01 as published)" in faults["method.enhancer.weight"]
    build(compose_plain("method.enhancer.weight=0.0"))  # not in use
    faults = faults_of(
        "method=vae_enhancer",
        "method.enhancer.lr=0.0",
        "method.enhancer.zero=middle",
        "method.enhancer.branches=uncond",
    )
    assert set(faults) == {f"method.enhancer.{name}" for name in ("lr", "zero", "branches")}
    assert "'first' or 'last'" in faults["method.enhancer.zero"]


def test_command_line_lists_every_misspelt_setting() -> None:
    with pytest.raises(ConfigError) as caught:
        check_overrides(
            ["lora.rnk=3", "samplr=ddim", "train.steps=5", "+x=1", "hydra.job.n=1", "-m", "model=sd21"]
        )
    assert [fault.key for fault in caught.value.faults] == ["lora.rnk", "samplr"]
    assert "did you mean lora.rank?" in str(caught.value)
    assert "sampler" in str(caught.value)


def test_seeds_file_is_checked_whole(tmp_path: Path, write_json: Callable[[Path, object], Path]) -> None:
    from jdx.stages.generate import read_seeds

    good = write_json(tmp_path / "good.json", {"00": {"Cat": 3}, "01": [["Dog", 4]]})
    assert read_seeds(good) == {"00": {"Cat": 3}, "01": {"Dog": 4}}
    bad = write_json(tmp_path / "bad.json", {"00": {"Cat": -1, "Dog": "x"}, "01": 5})
    with pytest.raises(ConfigError) as caught:
        read_seeds(bad)
    assert len(caught.value.faults) == 3


def test_paths_mean_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = compose_plain(
        "data=challenge",
        "data.root=set",
        "model.path=weights",
        "evaluation=challenge",
        "evaluation.networks.fid=weights",
    )
    fixed = anchored(config, tmp_path)
    assert fixed["data"]["root"] == str(tmp_path / "set")
    assert fixed["store"]["root"] == str(tmp_path / "outputs" / "store")
    assert fixed["model"]["path"] == fixed["evaluation"]["networks"]["fid"] == str(tmp_path / "weights")
    assert fixed["evaluation"]["judges"] == "challenge"
    assert fixed["method"]["init"]["picture"] == "none"
    assert anchored(config, elsewhere) == config


@pytest.mark.parametrize("key", ["data.root", "store.root", "model.path", "evaluation.judges"])
def test_empty_path_is_refused_since_it_would_mean_here(key: str) -> None:
    assert "empty" in faults_of(f"{key}=")[key]


def test_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    trial = build(compose_plain("data.root='~/set'", "store.root='~/store'"))
    assert (trial.data.root, trial.store.root) == ("/home/someone/set", "/home/someone/store")


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["method.tokens.steps=300"], "method.tokens.steps", "nothing would learn after it"),
        (["method.tokens.vectors=0"], "lora.unet.rank", "nothing would be trained"),
        (["method.train=false"], "method.tokens.vectors", "no effect without training"),
        (
            ["method.tokens.steps=100", "lora.rank=2", "optim.unet.start_step=200"],
            "optim.unet.start_step",
            "in steps 101 to 200: at most 100",
        ),
        (
            ["method.tokens.steps=100", "lora.text_encoder.rank=2", "optim.text_encoder.start_step=101"],
            "optim.text_encoder.start_step",
            "in steps 101 to 101",
        ),
    ],
)
def test_windows_of_a_learnt_word(overrides: list[str], key: str, words: str) -> None:
    assert words in faults_of("method=textual_inversion", *overrides)[key]


def test_a_word_first_then_the_adapter_is_valid() -> None:
    settings = [
        "method=textual_inversion",
        "lora.rank=16",
        "method.tokens.steps=200",
        "optim.unet.start_step=200",
    ]
    assert build(compose_plain(*settings)).optim.unet.start_step == 200
    build(compose_plain(*settings, "method.tokens.steps=250"))  # both for a while
    build(
        compose_plain("method.enhancer.enabled=true", "optim.unet.start_step=9")
    )  # the enhancer learns alone
