"""Every setting reaches the job it is for, and every setting that shapes a result is part of its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jdx import draws, trial, validation
from jdx.backends.base import (
    BlendSpec,
    CropSpec,
    EnhancerSpec,
    LoraSpec,
    PlainPrompt,
    SamplerSpec,
    ScheduleSpec,
    StyleIdSpec,
    TokensSpec,
)
from jdx.errors import ConfigError
from tests.configs import compose_plain
from tests.data.sets import make_style, noise
from tests.jdx.stages.recorder import Recorder, paint

WORDS = ("cat", "wallet", "ice cream")  # of the references, in the order of their files
EVERYTHING = (
    "method=styleid_db", "method.prior.weight=0.7", "method.prior.per_word=2", "method.prior.words=both",
    "method.prior.draw=A {object} in the center", "method.prior.caption=a plain {object}",
    "method.prior.sampler.name=dpmpp", "method.prior.sampler.steps=3", "method.prior.sampler.guidance_scale=2.5",
    "method.prompts.train=a {object} by {style}", "method.prompts.generate=one {object} by {style}",
    "method.init.picture=average", "method.init.strength=0.6",
    "method.blend.enabled=true", "method.blend.c2f.layers=['5']", "method.blend.c2f.share=0.7",
    "method.blend.f2c.layers=['2']", "method.blend.f2c.share=0.4", "method.blend.coarse.prompt=bare {object}",
    "method.blend.coarse.negative_prompt=dim", "method.blend.coarse.lora_scale=0.2",
    "method.styleid.layers=['8','9']", "method.styleid.gamma=0.3", "method.styleid.temperature=1.2",
    "method.enhancer.enabled=true", "method.enhancer.weight=0.03", "method.enhancer.lr=0.04",
    "method.enhancer.zero=first", "method.enhancer.branches=both",
    "method.styleid.steps=7", "method.styleid.start_step=2", "method.styleid.adain=false",
    "lora.rank=3", "lora.unet.alpha=5.0", "lora.unet.targets=[to_q]", "lora.text_encoder.rank=2",
    "lora.text_encoder.targets=[k_proj]", "lora.dropout=0.1", "lora.text_encoder.rslora=true", "lora.dora=true",
    "optim.unet.lr=0.02", "optim.text_encoder.lr=0.03", "optim.betas=[0.7,0.8]", "optim.eps=1e-5",
    "optim.weight_decay=0.4", "optim.max_grad_norm=0.9", "optim.warmup_steps=1",
    "train.steps=6", "train.snapshots=[2]", "train.checkpoint_every=5", "train.seed=11",
    "train.resolution=72", "train.batch_size=2", "train.accumulation=3", "train.log_every=4",
    "train.crop.scale=1.5", "train.crop.random=true", "train.crop.variants=3", "train.crop.flip=0.25",
    "train.crop.rotation=9.0", "train.min_snr_gamma=4.0", "train.ema_decay=0.98",
    "sampler=euler", "sampler.steps=5", "sampler.guidance_scale=4.0", "sampler.negative_prompt=blur",
    "sampler.resolution=80", "sampler.lora_scale=0.8", "sampler.seed=12",
    "backend.micro_batch=9", "backend.draw_batch=10", "backend.compile=off", "backend.graphs=off",
)  # fmt: skip


class Lab:
    """Trials on one store whose backend only takes notes."""

    def __init__(self, root: Path, *settings: str):
        self.root, self.settings, self.runs = root, settings, 0

    def run(self, *overrides: str) -> tuple[Recorder, dict[str, dict[str, int]]]:
        """The notes of a trial, and how much of each stage was made."""
        self.runs += 1
        folder, recorder = self.root / f"run{self.runs}", Recorder()
        settings = compose_plain(*self.settings, *(_quoted(override) for override in overrides))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trial, "make_backend", lambda *_, **__: recorder)
            trial.run(validation.build(settings), folder)
        stages: dict[str, dict[str, int]] = json.loads((folder / "trial.json").read_text())["stages"]
        return recorder, stages


def _quoted(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key}='{value}'" if "{" in value and ": {" not in value and ":{" not in value else override


@pytest.fixture
def lab(tmp_path: Path, tiny_sd: Path) -> Lab:
    for style in ("00", "05"):
        make_style(tmp_path / "set" / style, pictures=(), prompts={"0": "Dog", "1": "Ice cream"})
        for number, name in enumerate(("cat", "wallet_", "ice_cream")):
            noise(40, 10 * int(style) + number).save(tmp_path / "set" / style / "images" / f"{name}.png")
    return Lab(
        tmp_path, "data=challenge", f"data.root={tmp_path / 'set'}", f"model.path={tiny_sd}", "evaluation=none",
        "tracker=none", "quiet=true", f"store.root={tmp_path / 'store'}", "model.resolution=64",
    )  # fmt: skip


def test_training_gets_what_the_settings_say(lab: Lab) -> None:
    notes, _ = lab.run(*EVERYTHING)
    (job,) = notes.trained
    adapter = job.adapters[1]
    assert [a.style for a in job.adapters] == ["00", "05"]
    assert sorted(adapter.captions) == sorted(f"a {word} by 05" for word in WORDS)
    assert adapter.seed == 11
    assert adapter.unet == LoraSpec(3, 5.0, ("to_q",), dora=True)
    assert adapter.text_encoder == LoraSpec(2, 2**0.5, ("k_proj",), rslora=True, dora=True)
    assert (adapter.unet_lr, adapter.text_encoder_lr) == (0.02, 0.03)
    assert (adapter.min_snr_gamma, adapter.ema_decay) == (4.0, 0.98)
    assert (adapter.weight_decay, adapter.max_grad_norm, adapter.prior_weight) == (0.4, 0.9, 0.7)
    assert adapter.enhancer == EnhancerSpec(weight=0.03, lr=0.04, zero="first")
    assert (job.snapshots, job.restart_points) == ((2, 6), (5,))
    assert job.schedule == ScheduleSpec("constant", 1)
    assert (job.batch_size, job.accumulation, job.micro_batch, job.log_every) == (2, 3, 9, 4)
    assert (job.compile, job.graphs, job.deterministic) == ("off", False, False)
    assert (job.betas, job.eps, job.dropout) == ((0.7, 0.8), 1e-5, 0.1)
    assert set(job.moments) == set(job.prior_moments) == {"00", "05"}
    assert len({job.moments["05"], *job.prior_moments["05"], job.enhancer_moments["05"]}) == 6
    (decaying,) = lab.run(*EVERYTHING, "train.snapshots=[]", "optim.schedule=cosine")[0].trained
    assert (decaying.schedule.name, decaying.schedule_steps) == ("cosine", 6)


def test_views_are_cut_as_the_settings_say_and_class_pictures_at_the_centre(lab: Lab) -> None:
    notes, _ = lab.run(*EVERYTHING)
    own, prior, whole = notes.encoded
    assert own.crop == CropSpec(72, scale=1.5, random=True, variants=3, flip=0.25, rotation=9.0, seed=11)
    assert prior.crop == CropSpec(72, scale=1.0, random=False, variants=1, flip=0.0, seed=0)
    assert (whole.crop, whole.pictures) == (prior.crop, own.pictures)  # what an enhancer sees
    captions = notes.trained[0].adapters[1].captions
    assert [Path(p).stem.strip("_").replace("_", " ") for p in own.pictures["05"]] == [
        str(caption).removeprefix("a ").removesuffix(" by 05") for caption in captions
    ]


def test_class_pictures_are_drawn_by_the_base_and_captioned_with_their_own_word(lab: Lab) -> None:
    notes, _ = lab.run(*EVERYTHING)
    drawing = notes.drawn[0]
    assert (drawing.sampler, drawing.resolution) == (SamplerSpec("dpmpp", 3, 2.5), 72)
    assert {style.style for style in drawing.styles} == {*WORDS, "dog"}  # each word once for all styles
    assert all(style.adapter is None and style.init is None for style in drawing.styles)
    shown: dict[bytes, str] = {}
    for style in drawing.styles:
        assert [p.prompt for p in style.pictures] == [f"A {style.style} in the center"] * 2
        for picture in style.pictures:
            paint(lab.root / "again.png", picture.prompt, picture.seed)
            shown[(lab.root / "again.png").read_bytes()] = style.style
    assert len(shown) == 8
    encoded = {word: [shown[content] for content in some] for word, some in notes.pictures[1].items()}
    assert encoded == {word: [word] * 2 for word in {*WORDS, "dog"}}  # once per word, not per style
    (job,) = notes.trained
    captions = job.adapters[0].prior_captions
    assert sorted(captions) == sorted(f"a plain {word}" for word in [*WORDS, "dog"] * 2)
    folders = [json.loads((folder / "entry.json").read_text())["name"] for folder in job.prior_moments["00"]]
    assert list(captions) == [f"a plain {word}" for word in folders for _ in range(2)]


def test_class_pictures_are_encoded_once_for_all_words_styles_and_trials(lab: Lab) -> None:
    lab.run("method=prior", "method.prior.words=references")
    _, stages = lab.run("method=prior", "method.prior.words=both")
    assert stages["prior"] == {"made": 1, "reused": 3}  # the prompt's "dog"; its "ice cream" is a reference's
    assert stages["encode"] == {"made": 1, "reused": 2 + 3}


def test_a_share_of_class_pictures_instead_of_a_weight(lab: Lab) -> None:
    notes, _ = lab.run("method=dreambooth", "method.prior.fraction=0.5", "train.min_snr_gamma=5.0")
    (job,) = notes.trained
    adapter = job.adapters[0]
    assert (adapter.prior_weight, adapter.prior_fraction, adapter.min_snr_gamma) == (0.0, 0.5, 5.0)
    assert len(adapter.prior_captions) == 8 * len(job.prior_moments["00"]) == 8 * 4


@pytest.mark.parametrize(
    ("settings", "spec"),
    [
        (("step", "optim.step_size=30"), ScheduleSpec("step", 1, step_size=30, step_factor=0.7)),
        (("cosine_with_restarts", "optim.cycles=3"), ScheduleSpec("cosine_with_restarts", 1, cycles=3)),
        (("cosine", "optim.cycles=3", "optim.step_size=9"), ScheduleSpec("cosine", 1)),
    ],
    ids=str,
)
def test_schedules_get_their_own_numbers(lab: Lab, settings: tuple[str, ...], spec: ScheduleSpec) -> None:
    name, *others = settings
    notes, _ = lab.run("optim.warmup_steps=1", f"optim.schedule={name}", *others)
    assert notes.trained[0].schedule == spec


def test_steps_of_a_run_that_does_not_know_its_end_are_prefixes(lab: Lab) -> None:
    down = ("method=dreambooth", "optim.schedule=step", "optim.step_size=2")
    lab.run(*down, "train.steps=4")
    notes, _ = lab.run(*down, "train.steps=6")
    assert notes.trained[0].start_step == 4
    lab.run(*down, "train.steps=4", "optim.schedule=cosine")
    notes, _ = lab.run(*down, "train.steps=6", "optim.schedule=cosine")
    assert notes.trained[0].start_step == 0


@pytest.mark.parametrize(
    ("which", "words"),
    [("references", {*WORDS}), ("prompts", {"dog", "ice cream"}), ("both", {*WORDS, "dog"})],
)
def test_words_of_the_class_pictures(lab: Lab, which: str, words: set[str]) -> None:
    notes, _ = lab.run("method=prior", f"method.prior.words={which}")
    assert {style.style for style in notes.drawn[0].styles} == words


def test_drawing_gets_what_the_settings_say(lab: Lab) -> None:
    notes, _ = lab.run(*EVERYTHING)
    job = notes.drawn[1]
    assert (job.sampler, job.resolution, job.batch_size) == (SamplerSpec("euler", 5, 4.0), 80, 10)
    style = job.styles[1]
    assert [(p.file, p.prompt) for p in style.pictures] == [
        ("Dog.png", "one dog by 05"),
        ("Ice cream.png", "one ice cream by 05"),
    ]
    assert {p.negative_prompt for p in style.pictures} == {"blur"}
    assert [p.coarse_prompt for p in style.pictures] == ["bare dog", "bare ice cream"]
    assert {p.coarse_negative for p in style.pictures} == {"dim"}
    assert style.blend == BlendSpec(("5",), 0.7, ("2",), 0.4, None, 0.2)
    assert (style.lora_scale, style.enhanced) == (0.8, "both")
    assert style.adapter is not None
    assert style.adapter.name == "0000006"
    assert style.init is not None
    assert style.init.strength == 0.6
    seeds = json.loads((lab.root / "run1" / "seeds.json").read_text())
    assert {p.file: p.seed for p in style.pictures} == {f"{w}.png": n for w, n in seeds["05"].items()}


def test_words_of_tables_and_plain_prompts_reach_the_drawing(lab: Lab) -> None:
    words = "{0: {phrase: neon, negative: dull}, *: {}}"
    notes, _ = lab.run(
        *EVERYTHING,
        f"method.prompts.styles={words}",
        "method.prompts.generate={a_object} {phrase}",
        "method.prompts.origin={Object}",
        "method.prompts.origin_scale=0.2",
    )
    first, second = ({p.file: p for p in style.pictures} for style in notes.drawn[1].styles)
    assert (first["Ice cream.png"].prompt, second["Ice cream.png"].prompt) == (
        "an ice cream neon",
        "an ice cream ",
    )
    assert (first["Dog.png"].negative_prompt, second["Dog.png"].negative_prompt) == ("dull", "blur")
    assert first["Dog.png"].plain == PlainPrompt(
        "Dog", "dull", 0.2
    )  # the same negative: mixing changes nothing
    notes, _ = lab.run(
        *EVERYTHING,
        "method.prompts.origin_scale=0.2",
        "method.prompts.origin_negative=bad",
        "method.prior.weight=0",
    )
    assert notes.drawn[0].styles[0].pictures[0].plain == PlainPrompt("an image of dog", "bad", 0.2)


def test_stylising_gets_what_the_settings_say(lab: Lab) -> None:
    notes, _ = lab.run(*EVERYTHING)
    (job,) = notes.stylised
    assert job.spec == StyleIdSpec(("8", "9"), 0.3, 1.2, 7, start_step=2, adain=False)
    assert (job.resolution, job.batch_size) == (80, 10)
    style = job.styles[1]
    assert sorted(path.parent.parent.name for path in style.references) == ["05"] * 3
    assert [(file, which) for file, (_, which) in style.contents.items()] == [
        ("Dog.png", 0),  # "rotate"
        ("Ice cream.png", 1),
    ]
    (fixed,) = lab.run(*EVERYTHING, "method.styleid.reference=2")[0].stylised
    assert {which for _, which in fixed.styles[0].contents.values()} == {2}


def test_what_acts_on_adapters_is_no_part_of_a_result_without_any(lab: Lab) -> None:
    idle = ("lora.dropout=0.3", "sampler.lora_scale=0.5", "method.blend.coarse.lora_scale=0.9")
    for method in ("method=textual_inversion", "method=vae_enhancer"):
        settings = (method, "method.blend.enabled=true", "lora.unet.rank=0")
        lab.run(*settings)
        _, stages = lab.run(*settings, *idle)
        assert all(tally["made"] == 0 for tally in stages.values()), method
        text = (*settings, "lora.text_encoder.rank=2")
        lab.run(*text)
        for change, stage in (("lora.dropout=0.3", "train"), ("sampler.lora_scale=0.5", "generate")):
            assert lab.run(*text, change)[1][stage]["made"] == 2, change
        assert lab.run(*text, "method.blend.coarse.lora_scale=0.9")[1]["generate"]["made"] == 0


CHANGES = {
    "prior": ("method.prior.per_word=1", "method.prior.sampler.steps=4", "train.seed=13"),
    "encode": ("train.crop.scale=1.25", "train.crop.flip=0.5", "train.crop.variants=2", "train.crop.random=false",
        "train.crop.rotation=0.0"),
    "train": (
        "lora.dropout=0.2", "lora.unet.dora=false", "lora.unet.rslora=true",
        "lora.unet.alpha=6.0", "lora.text_encoder.rank=1", "method.prior.weight=0.5",
        "method.prior.caption=one {object}", "method.prompts.train=the {object} by {style}", "optim.unet.lr=0.01",
        "optim.betas=[0.7,0.9]", "optim.eps=1e-6", "optim.weight_decay=0.3", "optim.max_grad_norm=null",
        "method.enhancer.weight=0.02", "method.enhancer.lr=0.05", "method.enhancer.zero=last",
        "method.enhancer.enabled=false", "optim.warmup_steps=2", "train.min_snr_gamma=null",
        "train.ema_decay=0.9",
        "train.batch_size=1", "train.accumulation=1", "optim.unet.start_step=2",
        "optim.text_encoder.start_step=2",
    ),
    "generate": (
        "sampler.negative_prompt=dull", "sampler.lora_scale=0.7", "sampler.seed=14", "sampler.steps=6",
        "method.blend.c2f.layers=['6']", "method.blend.c2f.share=0.5", "method.blend.f2c.layers=['1']",
        "method.blend.f2c.share=0.3", "method.blend.coarse.prompt=some {object}", "method.blend.enabled=false",
        "method.enhancer.branches=conditional", "method.blend.coarse.negative_prompt=null",
        "method.blend.coarse.lora_scale=0.4",
        "sampler.name=ddim", "sampler.resolution=88", "method.init.strength=0.8", "method.init.picture=none",
        "method.prompts.origin_scale=0.2",
        "method.prompts.styles={5:{negative:bad}}", "method.prompts.generate={a_object} by {style}",
    ),
    "stylise": (
        "method.styleid.gamma=0.4", "method.styleid.adain=true", "method.styleid.start_step=1",
        "method.styleid.layers=['8']", "method.styleid.temperature=1.3", "method.styleid.reference=1",
    ),
}  # fmt: skip


def test_a_change_makes_its_own_stage_again_and_none_before_it(lab: Lab) -> None:
    lab.run(*EVERYTHING)
    order = list(CHANGES)
    for stage, changes in CHANGES.items():
        for change in changes:
            _, stages = lab.run(*EVERYTHING, change)
            made: dict[str, Any] = {name: stages[name]["made"] for name in order}
            assert made[stage] > 0, change
            if stage not in {"prior", "encode"}:  # those two are side by side
                assert not any(made[name] for name in order[: order.index(stage)]), change


WORDS_LEARNT = (
    "method=textual_inversion", "method.tokens.vectors=3", "method.tokens.init=art", "method.tokens.lr=0.02",
    "method.tokens.weight_decay=0.3", "method.tokens.steps=4", "lora.rank=2", "optim.unet.start_step=3",
    "train.steps=6", "method.prompts.train=a {object} as {token}", "method.prompts.generate={token} {object}",
)  # fmt: skip


def test_learnt_words_get_what_the_settings_say(lab: Lab) -> None:
    notes, _ = lab.run(*WORDS_LEARNT)
    one, other = notes.trained[0].adapters
    assert other.tokens == TokensSpec("<style_05>", 3, "art", 0.02, 0.3, 4)
    assert one.tokens is not None
    assert one.tokens.token == "<style_00>"
    assert sorted(other.captions) == sorted(f"a {word} as <style_05>" for word in WORDS)
    assert (other.unet_start, other.text_encoder_start) == (3, 0)
    assert [p.prompt for p in notes.drawn[-1].styles[1].pictures] == [
        "<style_05> dog",
        "<style_05> ice cream",
    ]
    assert notes.words == [(one.tokens, other.tokens)]  # looked at before anything is computed


@pytest.mark.parametrize(
    "change",
    ["vectors=2", "init=ink", "lr=0.01", "weight_decay=0.2", "steps=3"],
)
def test_what_shapes_a_learnt_word_is_part_of_its_key(lab: Lab, change: str) -> None:
    lab.run(*WORDS_LEARNT)
    _, stages = lab.run(*WORDS_LEARNT, f"method.tokens.{change}")
    assert stages["train"] == {"made": 2, "reused": 0}


def test_a_method_without_adapters_has_none_unless_told(lab: Lab) -> None:
    notes, _ = lab.run("method=textual_inversion")
    assert notes.trained[0].adapters[0].unet == LoraSpec(0, 1.0, ())
    notes, _ = lab.run("method=textual_inversion", "lora.rank=8")
    assert notes.trained[0].adapters[0].unet.rank == 8


def test_fixed_bits_are_trained_apart_and_speed_settings_are_not(lab: Lab) -> None:
    """They change rounding only; with train.deterministic the samples of a pass and its kernels make the bits."""
    lab.run()
    speed = ("backend.compile=regional", "backend.graphs=off", "backend.fused=off", "backend.memory=3.0")
    notes, stages = lab.run(*speed)
    assert (notes.trained, stages["train"]["made"]) == ([], 0)
    for settings in (("backend.micro_batch=0",), ("backend.micro_batch=4",), ("backend.fused=off",)):
        notes, stages = lab.run("train.deterministic=true", *settings)
        assert (notes.trained[0].deterministic, stages["train"]["made"]) == (True, 2)
        assert (notes.trained[0].compile, notes.trained[0].graphs) == ("auto", True)
    with pytest.raises(ConfigError, match=r"(?s)backend\.compile.*auto or off with train\.deterministic"):
        lab.run("train.deterministic=true", "backend.compile=full")


def test_a_joint_adapter_gets_all_styles_pictures_and_captions(lab: Lab) -> None:
    notes, _ = lab.run(*EVERYTHING, "method.enhancer.enabled=false", "lora.joint=true")
    (job,) = notes.trained
    (adapter,) = job.adapters
    assert (adapter.style, adapter.sources) == ("joint", ("00", "05"))
    both = lab.run(*EVERYTHING, "method.enhancer.enabled=false")[0].trained[0]
    one, other = both.adapters
    assert adapter.captions == (*one.captions, *other.captions)
    assert adapter.prior_captions == (*one.prior_captions, *other.prior_captions)
    assert job.moments == both.moments
    assert job.prior_moments == {"joint": (*both.prior_moments["00"], *both.prior_moments["05"])}
    assert len({style.adapter for style in notes.drawn[1].styles}) == 1


def test_mirrored_views_are_tagged(lab: Lab) -> None:
    """The tag is on exactly those views that the encoder mirrors: its draw, written out."""
    flips = (
        "train.crop.flip=0.5",
        "train.crop.flip_tag=', mirrored'",
        "train.crop.variants=6",
        "train.seed=3",
    )
    notes, _ = lab.run("method.prompts.train={object} {style}", *flips)
    seen = set()
    for adapter, style in zip(notes.trained[0].adapters, ("00", "05"), strict=True):
        for captions, path in zip(adapter.captions, notes.encoded[0].pictures[style], strict=True):
            stem = Path(path).stem
            word = f"{stem.strip('_').replace('_', ' ')} {style}"
            flags = [draws.uniform(3, style, stem, variant, "flip") < 0.5 for variant in range(6)]
            assert captions == tuple(f"{word}, mirrored" if flag else word for flag in flags)
            seen |= set(flags)
    assert seen == {True, False}
