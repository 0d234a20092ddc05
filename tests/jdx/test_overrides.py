"""What people type, before Hydra reads it."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from jdx.errors import ConfigError
from jdx.overrides import TEXTS, check_overrides, forgotten_flag, understood


@pytest.mark.parametrize(
    "text",
    [
        "/数据/A", "~/set", "/a(1)/b", "/it's", "C:\\é\\", "a\\'é\\\\'b", "{object} in style", "ugly, blurry", "x=y #1",
        "/plain/path", "two words", "${oc.env:HOME}",
    ],
)  # fmt: skip
def test_text_arrives_as_it_was_typed(text: str) -> None:
    (word,) = understood([f"sampler.negative_prompt={text}"])
    override = OverridesParser.create().parse_override(word)
    assert not override.is_sweep_override()
    value = override.value()
    assert value == text
    check_overrides([word])


def test_texts_are_the_settings_of_one_text() -> None:
    assert {"data.root", "model.path", "sampler.seeds", "method.styleid.reference", "hydra.run.dir"} <= TEXTS
    assert not TEXTS & {"tags", "data.styles", "lora.rank", "lora.unet.targets", "quiet", "data"}


def test_in_a_sweep_a_comma_separates() -> None:
    assert understood(["sampler.seeds=a,b", "-m"]) == ["sampler.seeds=a,b", "-m"]
    assert understood(["sampler.seeds=é,b", "--multirun"])[0] == "sampler.seeds=é,b"


def test_flags_may_stand_anywhere_and_experiment_keeps_its_place() -> None:
    words = understood(["data=sample", "-m", "+experiment=baseline", "--cfg", "job", "+x=1"])
    assert words == ["data=sample", "experiment=baseline", "+x=1", "-m", "--cfg", "job"]


@pytest.mark.parametrize("flag", ["--config-path", "-cp"])
def test_a_config_path_begins_at_the_current_folder(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(tmp_path / "run" / ".hydra")
    assert understood([flag, "run/.hydra", "-cn", "config", "x=1"]) == ["x=1", flag, folder, "-cn", "config"]
    assert understood([f"{flag}=run/.hydra", "-m"]) == [f"{flag}={folder}", "-m"]
    assert understood([flag, folder]) == [flag, folder]


def faults_of(*words: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        check_overrides(words)
    return {f"{fault.key}={fault.value}": fault.allowed for fault in caught.value.faults}


def test_unknown_options_and_unreadable_values_are_told_with_the_rest() -> None:
    faults = faults_of(
        "method=dreamboth", "sampler=", "lora.rnk=3", "tags=[é]", "debug=tiny", "model='sd15',mini,x"
    )
    assert set(faults) == {"method=dreamboth", "sampler=", "lora.rnk=3", "tags=[é]", "model=x"}
    assert faults["method=dreamboth"].endswith("; did you mean dreambooth or dreambooth_ti?")
    assert not faults["model=x"].endswith("?")
    assert "ddim, dpmpp, euler, unipc" in faults["sampler="]
    assert "quotes" in faults["tags=[é]"]


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=null"],
        ["method=glob(*)"],
        ["method=base,prior"],
        ["method=choice(base,prior)"],
        ["sampler=ddim.yaml"],
        ["method=mine", "--config-dir=/mine"],
        ["+method@other=x"],
        ["~debug"],
        ["lora.rank=2", "--config-dir", "/mine"],
        ["hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1", "hydra/sweeper=optuna"],
        ["hydra/sweeper=basic"],
        ["hydra/sweeper=mine", "hydra.sweeper.own=1", "--config-dir=/mine"],
        ["hydra.job.name=x"],
    ],
)
def test_what_is_right_or_only_hydra_can_know_passes(words: list[str]) -> None:
    check_overrides(words)


def test_settings_of_the_launcher_are_known_and_their_misspellings_told() -> None:
    check_overrides(["launcher=gpu_pool", "launcher.jobs_per_gpu=2"])
    with pytest.raises(ConfigError, match=r"did you mean launcher\.jobs_per_gpu"):
        check_overrides(["launcher.job_per_gpu=2"])


def test_misspelt_keys_of_a_sweep_are_told_with_their_values() -> None:
    faults = faults_of(
        "lora.rnk=4,8",
        "hydra.sweeper.n_trails=3",
        "hydra.sweeper.samplr.seed=1",
        "hydra/sweeper/pruner=hyperbland",
        "-m",
    )
    assert set(faults) == {
        "lora.rnk=4,8", "hydra.sweeper.n_trails=3", "hydra.sweeper.samplr=1", "hydra/sweeper/pruner=hyperbland",
    }  # fmt: skip
    assert "did you mean lora.rank?" in faults["lora.rnk=4,8"]
    assert "hydra.sweeper.n_trials" in faults["hydra.sweeper.n_trails=3"]


def test_words_without_a_value_are_told() -> None:
    faults = faults_of("train.steps", "baseline", "-m")
    assert faults == {
        "train.steps=": "has no value: train.steps=VALUE",
        "baseline=": "is no setting with its value: KEY=VALUE; did you mean experiment=baseline?",
    }


@pytest.mark.parametrize("word", ["sweep=lora", "hydra.sweeper.n_trials=3", "hydra/sweeper/pruner=wilcoxon"])
def test_a_search_without_its_flag_is_said_to_be_one_trial(word: str) -> None:
    said = forgotten_flag(["debug=tiny", word])
    assert said == f"one trial: without -m nothing is searched ({word})"
    assert forgotten_flag([word, "-m"]) is None
    assert forgotten_flag([word, "--multirun"]) is None
    assert forgotten_flag([word, "hydra.mode=MULTIRUN"]) is None
    assert forgotten_flag([word, "--cfg", "job"]) is None
    assert forgotten_flag(["debug=tiny", "sweep=null"]) is None
