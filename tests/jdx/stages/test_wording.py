"""Words per style and per object reach captions and prompts; what tables and set disagree on is told at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.challenge import read_challenge
from jdx.errors import ConfigError
from jdx.stages.wording import Wording
from jdx.validation import build
from tests.configs import compose_plain
from tests.data.sets import make_style
from tests.jdx.lab import Lab, challenge, lab

__all__ = ["challenge", "lab"]

TEMPLATES = {
    "train": "{prefix}{object} in style_{style}",
    "generate": "{prefix}{Object} in style_{style}{phrase}, {expansion}",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for style in ("00", "05", "chalk"):
        make_style(tmp_path / "set" / style, pictures=("cat.png",), prompts={"0": "Owl", "1": "Ice cream"})
    return tmp_path / "set"


def wording(root: Path, styles: Any = None, expand: Any = None, *overrides: str, **templates: str) -> Wording:
    config = compose_plain("data=challenge", f"data.root={root}", *overrides)
    config["method"]["prompts"] |= {"styles": styles, "expand": expand, **templates}
    trial = build(json.loads(json.dumps(config)))
    return Wording(trial, read_challenge(root, styles=trial.data.styles))


def faults_of(root: Path, *given: Any, **templates: str) -> dict[str, str]:
    return {fault.key: fault.allowed for fault in wording(root, *given, **templates).faults()}


def test_words_of_a_style_reach_its_captions_and_prompts(root: Path) -> None:
    styles = {
        "00": {"phrase": " neon", "prefix": "a "},
        5: {"negative": "blur", "generate": "{a_object}, relief{phrase}"},
        "*": {"phrase": " plain"},
    }
    words = wording(root, styles, "hypernyms", "sampler.negative_prompt=ugly", **TEMPLATES)
    assert words.faults() == []
    assert words.caption("00", "cat") == "a cat in style_00"
    assert words.prompt("00", "Ice cream") == "a Ice cream in style_00 neon, ice cream, frozen dessert"
    assert words.prompt("05", "Owl") == "an owl, relief"
    assert words.prompt("chalk", "Axolotl") == "Axolotl in style_chalk plain, axolotl"  # "*" of both tables
    assert [words.negative(style) for style in ("00", "05", "chalk")] == ["ugly", "blur", "ugly"]


def test_unknown_styles_get_the_valid_ones(root: Path) -> None:
    faults = faults_of(root, {"00": {}, "5": {}, "chlak": {}})
    assert faults == {"method.prompts.styles.chlak": "no such style in the set; did you mean chalk?"}
    # a style of the set that this trial leaves out is known
    assert faults_of(root, {"chalk": {"negative": "x"}}, None, "data.styles=[00]") == {}


def test_style_without_the_words_that_its_template_names(root: Path) -> None:
    faults = faults_of(root, {"00": {"phrase": "a"}}, None, generate="{object} {phrase}")
    assert set(faults) == {"method.prompts.styles.05", "method.prompts.styles.chalk"}
    assert faults_of(root, {"00": {"phrase": "a"}, "*": {}}, None, generate="{object} {phrase}") == {}


def test_prompt_without_expansion_is_told_with_the_nearest(root: Path) -> None:
    given = {"owl": "owl, bird", "ice creme": "dessert"}
    faults = faults_of(root, None, given, generate="{expansion}")
    assert set(faults) == {"method.prompts.expand.ice cream"}
    assert "did you mean ice creme" in faults["method.prompts.expand.ice cream"]
    trained = faults_of(root, None, {"owl": "a", "ice cream": "b"}, train="{expansion}")
    assert set(trained) == {"method.prompts.expand.cat"}  # references too, where they are captioned with it


def test_tables_without_effect_are_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert faults_of(root, {"00": {"phrase": "a"}}, "hypernyms") == {}
    assert "no template has a place for them: {phrase}" in caplog.text
    assert "no template has a place for it: {expansion}" in caplog.text
    assert faults_of(root, {"99": {}, "*": {}}) == {}
    assert "1 styles that this set does not: 99" in caplog.text


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({"generate": "{object} {phrase}"}, "method.prompts.generate", "method.prompts.styles"),
        ({"train": "{expansion}"}, "method.prompts.train", "method.prompts.expand"),
        ({"origin": "a picture"}, "method.prompts.origin", "{expansion}"),
        ({"origin": "{object} in {style}"}, "method.prompts.origin", "unknown placeholder {style}"),
        ({"styles": {"00": {"generate": "{objct}"}}}, "method.prompts.styles.00.generate", "{objct}"),
        ({"styles": {"00": {"generate": "thing"}}}, "method.prompts.styles.00.generate", "same thing"),
        ({"styles": "nowhere.yaml"}, "method.prompts.styles", "no such table"),
        ({"expand": {"cat": 3}}, "method.prompts.expand.cat", "must be a text"),
        ({"origin_scale": 1.5}, "method.prompts.origin_scale", "less than or equal to 1"),
    ],
)
def test_faults_of_words_are_told_with_all_others(
    root: Path, settings: dict[str, Any], key: str, words: str
) -> None:
    config = compose_plain("data=challenge", f"data.root={root}")
    config["method"]["prompts"] |= settings
    config["train"]["snapshots"] = [] if "origin_scale" in settings else [10**5]
    with pytest.raises(ConfigError) as caught:
        build(json.loads(json.dumps(config)))
    faults = {fault.key: fault.allowed for fault in caught.value.faults}
    assert words in faults[key]
    assert "origin_scale" in settings or "train.snapshots" in faults


def test_every_text_of_a_trial_is_looked_at(root: Path) -> None:
    """What is trained on, drawn, redrawn and drawn against, in every branch; nothing that is not read."""
    given = (
        "method=prior", "method.prior.words=references", "method.prior.draw='draw {object}'",
        "method.prior.caption='class {object}'", "method.blend.enabled=true", "method.blend.coarse.train=true",
        "method.blend.coarse.prompt='coarse {object}'", "method.blend.coarse.negative_prompt=dim",
        "method.blend.coarse.candidates.prompt='redraw {object}'", "sampler.guidance_scale=3.0",
        "method.blend.coarse.candidates.negative_prompt=flat",
        "method.blend.coarse.candidates.sampler.guidance_scale=2.0", "train.crop.flip=0.5",
        "train.crop.flip_tag=' mirrored'", "method.prompts.origin_scale=0.2",
        "method.prompts.origin='plain {object}'", "method.prompts.origin_negative=bare",
        "sampler.negative_prompt=blur", "data.styles=[chalk]",
    )  # fmt: skip
    templates = {"train": "learn {object}", "generate": "make {object}"}
    drawn = {f"{start} {word}" for start in ("make", "coarse", "plain") for word in ("owl", "ice cream")}
    learnt = {f"{start} cat" for start in ("learn", "draw", "class", "coarse", "redraw")} | {
        "learn cat mirrored"
    }
    negative = {"blur", "dim", "bare", "flat"}
    assert set(wording(root, None, None, *given, **templates).texts()) == drawn | learnt | negative
    unguided = (
        *given,
        "sampler.guidance_scale=1.0",
        "method.blend.coarse.candidates.sampler.guidance_scale=1.0",
        "method.blend.coarse.train=false",
        "method.prior.weight=0",
    )
    texts = wording(root, None, None, *unguided, **templates).texts()
    assert set(texts) == drawn | {"learn cat", "learn cat mirrored"}


def test_expansions_of_a_coarse_branch_are_looked_for(root: Path) -> None:
    """Its pictures are of the references' objects, and its captions too; the prompts' objects are drawn with it."""
    coarse = ("method=blend", "method.blend.coarse.train=true", "data.styles=[chalk]")
    both = {"owl": "a", "ice cream": "b"}

    def lacking(table: dict[str, str], *overrides: str) -> set[str]:
        return {fault.key.rpartition(".")[2] for fault in wording(root, None, table, *overrides).faults()}

    redrawn = "method.blend.coarse.candidates.prompt='{expansion}'"
    assert lacking(both, *coarse, redrawn) == {"cat"}
    assert lacking(both, *coarse, "method.blend.coarse.prompt='{expansion}'") == {"cat"}
    assert lacking({"cat": "c"}, *coarse, redrawn) == set()
    assert lacking(both, "method=blend", redrawn) == set()  # nothing is redrawn
    classes = ("method=prior", "method.prior.words=references", "method.prior.draw='{expansion}'")
    assert lacking({"cat": "c"}, *classes, "data.styles=[chalk]") == set()


def test_learnt_words_of_all_styles_count_in_every_group(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """`<style_05>` is one token; spelt out it would be ten, and its prompts would seem to be cut."""
    short = "{object} " + "x" * 64 + "{token}"  # with "ice cream" 75 tokens and the two marks
    settings = (
        "method=textual_inversion",
        f"method.prompts.generate='{short}'",
        f"method.prompts.train='{short}'",
    )
    lab.run(*settings, "group_size=1", "lora.rank=0")
    assert "longer than" not in caplog.text


@pytest.mark.slow
def test_long_prompts_are_said_once_with_several_devices(
    lab: Lab, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    long = "{object} " + "y" * 68 + " beyond the end"
    settings = ("method=base", f"method.prompts.generate='{long}'", "sampler.guidance_scale=3.0")
    lab.run(*settings, "backend.device=auto", "backend.devices=[cpu,cpu]")
    said = [record.getMessage() for record in caplog.records if "longer than 77" in record.getMessage()]
    assert len(said) == 2  # here, by the trial's own process
    assert "longer than 77" not in capfd.readouterr().err


def test_prompts_that_are_cut_are_said_once_and_before_anything_is_drawn(
    lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model's tokenizer spells letter by letter: 75 letters fit."""
    from jdx.backends.torch import generate

    seen: list[str] = []
    drawn = generate.generate

    def watched(*job: Any) -> None:
        seen.append(caplog.text)
        drawn(*job)

    monkeypatch.setattr("jdx.backends.torch.backend.generate", watched)
    long = "{object} " + "x" * 68 + " beyond the end"
    lab.run("method=base", f"method.prompts.generate='{long}'", "sampler.guidance_scale=3.0", "group_size=1")
    cuts = [
        record.getMessage() for record in caplog.records if "longer than 77 tokens" in record.getMessage()
    ]
    assert len(cuts) == len(set(cuts)) == 2  # "dog" and "ice cream", for both styles
    assert all("beyond" in cut or "end" in cut for cut in cuts)
    assert all(cut in seen[0] for cut in cuts)
