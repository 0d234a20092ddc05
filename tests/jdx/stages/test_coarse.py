"""StyleBlend's coarse branch: what is redrawn, what is kept, what is learnt from it, and what is drawn with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from jdx import trial, validation
from jdx.backends.base import LoraSpec, SamplerSpec
from jdx.errors import BackendError
from tests.configs import compose_plain
from tests.data.sets import make_style, noise
from tests.jdx.stages.recorder import Recorder

WORDS = {"cat": "cat", "owl_": "owl"}
SETTINGS = (
    "method=blend", "method.blend.coarse.train=true", "method.blend.coarse.steps=7", "method.blend.coarse.rank=5",
    "method.blend.coarse.lr=0.03", "method.blend.coarse.prompt='{a_object} like & .'",
    "method.blend.coarse.candidates.per_reference=5", "method.blend.coarse.candidates.keep=2",
    "method.blend.coarse.candidates.strengths=[0.7,0.9]", "method.blend.coarse.candidates.prompt='{a_object}, real'",
    "method.blend.coarse.candidates.negative_prompt=ugly", "method.blend.coarse.candidates.sampler.name=dpmpp",
    "method.blend.coarse.candidates.sampler.steps=6", "method.blend.coarse.candidates.sampler.guidance_scale=4.0",
    "train.steps=9", "train.snapshots=[3]", "optim.schedule=step", "optim.step_size=4", "train.seed=11",
    "lora.text_encoder.targets=[k_proj]",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for style in ("00", "05"):
        make_style(tmp_path / "set" / style, pictures=(), prompts={"0": "Dog"})
        for number, name in enumerate(WORDS):
            noise(40, 10 * int(style) + number).save(tmp_path / "set" / style / "images" / f"{name}.png")
    return tmp_path


def run(
    root: Path, model: Path, *overrides: str, stopping: Collection[str] = ()
) -> tuple[Recorder, Path, dict[str, dict[str, int]]]:
    recorder, folder = Recorder(), root / f"run{len(list(root.glob('run*')))}"
    recorder.stopping = set(stopping)
    fixed = (
        "data=challenge", f"data.root={root / 'set'}", f"model.path={model}", "evaluation=none", "tracker=none",
        "quiet=true", f"store.root={root / 'store'}", "model.resolution=64",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "make_backend", lambda *_, **__: recorder)
        trial.run(validation.build(compose_plain(*fixed, *SETTINGS, *overrides)), folder)
    return recorder, folder, json.loads((folder / "trial.json").read_text())["stages"]


def test_every_reference_is_redrawn_and_learnt_from(root: Path, tiny_sd: Path) -> None:
    notes, folder, _ = run(root, tiny_sd)
    candidates, pictures = notes.drawn
    assert (candidates.sampler, candidates.resolution) == (SamplerSpec("dpmpp", 6, 4.0), 64)
    assert len(candidates.styles) == 2 * 2 * 2  # styles, references, strengths
    seeds: list[int] = []
    for job in candidates.styles:
        assert job.adapter is None
        assert job.blend is None
        assert job.init is not None
        count = {0.7: 3, 0.9: 2}[job.init.strength]  # five candidates, strengths in turn
        word = WORDS[job.init.picture.stem]
        assert [(p.prompt, p.negative_prompt) for p in job.pictures] == [
            (f"{'an owl' if word == 'owl' else 'a cat'}, real", "ugly")
        ] * count
        seeds += [p.seed for p in job.pictures]
    assert len(set(seeds)) == 20

    fine, coarse = notes.trained
    assert [a.style for a in fine.adapters] == ["00", "05"]
    assert [a.style for a in coarse.adapters] == ["00.coarse", "05.coarse"]
    assert (fine.snapshots, coarse.snapshots) == ((3, 9), (7,))
    assert (fine.schedule.name, coarse.schedule.name) == ("step", "constant")
    one = coarse.adapters[0]
    assert (one.unet.rank, one.text_encoder, one.text_encoder_lr) == (0, LoraSpec(5, 5.0, ("k_proj",)), 0.03)
    # nobody judges: all five of each reference, with their own reference's word
    assert one.captions == ("a cat like & .",) * 5 + ("an owl like & .",) * 5
    crop, shown = notes.encoded[1].crop, notes.pictures[1]
    assert (crop.random, crop.flip, crop.variants) == (False, 0.0, 1)
    assert {name: len(set(some)) for name, some in shown.items()} == {"00.coarse": 10, "05.coarse": 10}

    for job, other in zip(pictures.styles, notes.trained[1].adapters, strict=True):
        assert job.blend is not None
        assert job.blend.adapter is not None
        assert job.blend.adapter.name == "0000007"
        assert [p.coarse_prompt for p in job.pictures] == ["a dog like & ."]
        assert other.style == f"{job.style}.coarse"
    assert pictures.styles[0].blend != pictures.styles[1].blend
    there = sorted(p.relative_to(folder).as_posix() for p in (folder / "adapters").rglob("*.safetensors"))
    name = "pytorch_lora_weights.safetensors"
    assert [p for p in there if "step_" not in p] == [
        f"adapters/{style}/{place}{name}" for style in ("00", "05") for place in ("coarse/", "")
    ]
    rows = (folder / "losses.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"00", "05", "00.coarse", "05.coarse"}


@pytest.mark.parametrize(
    ("change", "made"),
    [
        ("sampler.steps=11", {"generate"}),
        ("method.blend.coarse.lora_scale=0.5", {"generate"}),
        ("method.blend.coarse.lr=0.02", {"train", "generate"}),
        ("method.blend.coarse.steps=8", {"train", "generate"}),
        ("method.blend.coarse.rank=6", {"train", "generate"}),
        ("method.blend.coarse.prompt='{object} like it'", {"train", "generate"}),
        ("method.blend.coarse.candidates.prompt='{object}!'", {"candidates", "encode", "train", "generate"}),
        ("method.blend.coarse.candidates.sampler.steps=7", {"candidates"}),
    ],
)
def test_a_change_makes_what_it_shapes_again(root: Path, tiny_sd: Path, change: str, made: set[str]) -> None:
    run(root, tiny_sd)
    _, _, stages = run(root, tiny_sd, change)
    assert {stage for stage, count in stages.items() if count["made"]} == made


def test_fine_adapters_are_the_same_with_and_without_a_coarse_branch(root: Path, tiny_sd: Path) -> None:
    run(root, tiny_sd)
    _, _, stages = run(root, tiny_sd, "method.blend.coarse.train=false")
    assert stages["train"] == {"made": 0, "reused": 2}


def test_no_style_left_is_an_error_whichever_branch_stopped(root: Path, tiny_sd: Path) -> None:
    with pytest.raises(BackendError, match=r"every style: 00: coarse branch: .*; 05: coarse branch: "):
        run(root, tiny_sd, stopping=("00.coarse", "05.coarse"))
    with pytest.raises(BackendError, match=r"every style: 00: the loss.*; 05: coarse branch: ") as caught:
        run(root, tiny_sd, "train.seed=12", stopping=("00", "05.coarse"))
    assert "optim.unet.lr" in str(caught.value)


def test_a_style_whose_fine_branch_stopped_gets_no_coarse_one(root: Path, tiny_sd: Path) -> None:
    notes, folder, _ = run(root, tiny_sd, stopping=("00", "00.coarse"))
    assert [[a.style for a in job.adapters] for job in notes.trained] == [["00", "05"], ["05.coarse"]]
    failed = json.loads((folder / "trial.json").read_text())["failed_styles"]
    assert failed == {"00": {"step": 1, "reason": "the loss of 00 is nan"}}
    assert {path.name for path in (folder / "images").iterdir()} == {"05"}


def test_a_stopped_joint_adapter_leaves_nothing_to_blend(root: Path, tiny_sd: Path) -> None:
    with pytest.raises(BackendError, match="every style: joint: the loss of joint is nan"):
        run(root, tiny_sd, "lora=joint", stopping=("joint",))


def test_the_candidates_kept_are_those_whose_word_clip_sees_best(
    root: Path, tiny_sd: Path, tiny_judges: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice against transformers' own CLIP on the same files."""
    monkeypatch.setenv("JDX_CACHE", str(root / "cache"))
    shutil.rmtree(root / "set" / "05")
    notes, _, stages = run(root, tiny_sd, f"evaluation.judges={tiny_judges}")
    assert stages["kept"]["made"] == 1
    captions = (
        next(job for job in notes.trained if job.adapters[0].style.endswith("coarse")).adapters[0].captions
    )
    assert captions == ("a cat like & .",) * 2 + ("an owl like & .",) * 2
    (choice,) = (root / "store" / "kept").rglob("choice.json")
    marks = json.loads(choice.read_text())
    assert len(marks) == 10
    for number, word in enumerate(("cat", "owl")):
        own = {name: mark for name, mark in marks.items() if name.startswith(f"{number:03d}-")}
        best = sorted(own, key=lambda name: -own[name])[:2]
        assert sorted(p.name for p in choice.parent.glob(f"{number:03d}-*.png")) == sorted(best)
        for name in best:
            assert own[name] == pytest.approx(cosine(tiny_judges, choice.parent / name, word), abs=1e-5)
    assert len(set(marks.values())) > 3
    _, _, again = run(root, tiny_sd, f"evaluation.judges={tiny_judges}", "sampler.steps=9")
    assert again["kept"] == {"made": 0, "reused": 1}


def cosine(judges: Path, picture: Path, word: str) -> float:
    place = judges.parent / "clip"
    model, tokenizer = CLIPModel.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    pixels = CLIPImageProcessor.from_pretrained(place)(Image.open(picture), return_tensors="pt").pixel_values
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        text = model.text_model(**tokenizer([word], return_tensors="pt")).pooler_output
        return float(torch.cosine_similarity(seen, model.text_projection(text))[0])
