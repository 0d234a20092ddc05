"""One trial from end to end, on a tiny Stable Diffusion and tiny judges in the real formats."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from jdx import kohya, trial
from jdx.stages import adapt
from tests.data.sets import make_style, noise
from tests.jdx.lab import STYLES, Lab, challenge, lab, pixels

__all__ = ["challenge", "lab"]

Metrics = dict[str, Any]


def test_trial_leaves_all_that_is_promised(lab: Lab, tiny_sd: Path) -> None:
    result, run = lab.run()
    metrics: Metrics = json.loads((run / "metrics.json").read_text())
    assert result.final_score == metrics["final_score"]
    assert metrics["complete"] is True
    assert set(metrics["styles"]) == set(STYLES)
    assert set(metrics["styles"]["00"]["pictures"]) == {"Dog", "Ice cream"}
    assert sorted(pixels(run / "images")) == [f"{s}/{p}.png" for s in STYLES for p in ("Dog", "Ice cream")]
    assert pixels(run / "images")["00/Dog.png"].shape == (64, 64, 3)
    seeds = json.loads((run / "seeds.json").read_text())
    assert set(seeds["05"]) == {"Dog", "Ice cream"}
    with (run / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["style"], row["step"]) for row in rows] == [(s, n) for s in STYLES for n in ("2", "4")]
    assert (run / "report.html").stat().st_size > 1000
    assert result.report == run / "report.html"
    assert list((lab.root / "store" / ".work").iterdir()) == []
    about = json.loads((run / "trial.json").read_text())
    assert (about["data"]["styles"], about["data"]["prompts"], about["sweep"]) == (2, 4, None)
    assert all("fid_without" in style for style in metrics["styles"].values())


def test_saved_adapter_draws_our_picture_in_a_plain_pipeline(lab: Lab, tiny_sd: Path) -> None:
    settings = ("lora.text_encoder.rank=1", "optim.text_encoder.lr=0.01", "lora.unet.alpha=3.0")
    _, run = lab.run(*settings, "sampler.guidance_scale=7.5")
    seed = json.loads((run / "seeds.json").read_text())["00"]["Dog"]
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    common = {"num_inference_steps": 2, "guidance_scale": 7.5, "height": 64, "width": 64, "output_type": "np"}
    prompt = "an image of dog in style_00"

    def draw() -> Any:
        return pipeline(prompt, generator=torch.Generator("cpu").manual_seed(seed), **common).images[0] * 255

    plain = draw()
    pipeline.load_lora_weights(run / "adapters" / "00")
    ours = pixels(run / "images")["00/Dog.png"].astype(float)
    assert np.abs(draw() - ours).max() < 1.0  # rounding to 8 bits
    assert np.abs(plain - ours).max() > 5.0  # the adapter does change the picture
    pipeline.unload_lora_weights()
    assert kohya.main([str(run)]) == 0
    assert sorted(path.name for path in (run / "kohya").iterdir()) == ["00.safetensors", "05.safetensors"]
    pipeline.load_lora_weights(
        run / "kohya", weight_name="00.safetensors"
    )  # diffusers reads kohya's names too
    assert np.abs(draw() - ours).max() < 1.0


def test_learnt_word_draws_our_picture_in_a_plain_pipeline(lab: Lab, tiny_sd: Path) -> None:
    settings = ("method=textual_inversion", "lora.rank=0", "method.tokens.vectors=2", "method.tokens.lr=0.5")
    _, run = lab.run(*settings, "method.tokens.init=e", "train.snapshots=[2]")
    folder = run / "adapters" / "00"
    assert [path.name for path in folder.iterdir()] == ["learned_embeds.safetensors"]
    assert (run / "adapters" / "step_2" / "05" / "learned_embeds.safetensors").is_file()
    seed = json.loads((run / "seeds.json").read_text())["00"]["Dog"]
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(folder, weight_name="learned_embeds.safetensors", local_files_only=True)

    def draw(prompt: str) -> Any:
        generator = torch.Generator("cpu").manual_seed(seed)
        common = {"num_inference_steps": 2, "guidance_scale": 7.5, "height": 64, "width": 64}
        return pipeline(prompt, generator=generator, output_type="np", **common).images[0] * 255

    ours = pixels(run / "images")["00/Dog.png"].astype(float)
    assert np.abs(draw("an image of dog in the style of <style_00>") - ours).max() < 1.0
    assert np.abs(draw("an image of dog in the style of e e") - ours).max() > 3.0


def test_enhancer_is_trained_once_kept_and_drawn_with_on_the_branches_asked_for(lab: Lab) -> None:
    settings = ("method=vae_enhancer", "method.enhancer.weight=2.0", "method.enhancer.zero=first")
    _, one = lab.run(*settings, "sampler.negative_prompt=blur", "train.snapshots=[2]")
    files = {"pytorch_lora_weights.safetensors", "vae_enhancer.safetensors"}
    assert {path.name for path in (one / "adapters" / "00").iterdir()} == files
    assert {path.name for path in (one / "adapters" / "step_2" / "05").iterdir()} == files
    _, both = lab.run(*settings, "sampler.negative_prompt=blur", "method.enhancer.branches=both")
    stages = json.loads((both / "trial.json").read_text())["stages"]
    assert (stages["train"]["made"], stages["generate"]["reused"]) == (0, 0)
    a, b = pixels(one / "images"), pixels(both / "images")
    assert all(np.abs(a[name].astype(float) - b[name]).max() > 3.0 for name in a)


def test_enhancer_alone_needs_no_adapter(lab: Lab) -> None:
    _, run = lab.run("method=vae_enhancer", "lora.rank=0")
    assert [path.name for path in (run / "adapters" / "00").iterdir()] == ["vae_enhancer.safetensors"]


def test_style_is_the_same_alone_and_in_company(lab: Lab) -> None:
    _, both = lab.run()
    _, alone = lab.run("data.styles=[5]", f"store.root={lab.root / 'other'}")
    a, b = pixels(both / "images")["05/Dog.png"], pixels(alone / "images")["05/Dog.png"]
    assert (
        np.abs(a.astype(int) - b.astype(int)).max() <= 1
    )  # kernels may round differently at another batch size


def test_seeds_file_fixes_single_pictures(lab: Lab) -> None:
    _, run = lab.run("method=base")
    (lab.root / "seeds.json").write_text(json.dumps({"00": {"Dog": 7}}))
    _, fixed = lab.run("method=base", f"sampler.seeds={lab.root / 'seeds.json'}")
    assert json.loads((fixed / "seeds.json").read_text())["00"]["Dog"] == 7
    a, b = pixels(run / "images"), pixels(fixed / "images")
    assert not np.array_equal(a["00/Dog.png"], b["00/Dog.png"])
    assert np.array_equal(a["00/Ice cream.png"], b["00/Ice cream.png"])


def test_style_that_leaves_the_finite_numbers_is_dropped_and_named(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(bench: Any, prior: Any) -> Any:
        specs = adapt.adapter_specs(bench, prior)
        return specs | {"05": replace(specs["05"], unet_lr=1e38)}

    monkeypatch.setattr(trial, "adapter_specs", poisoned)
    result, run = lab.run("train.steps=8")
    assert set(result.failed) == {"05"}
    assert sorted({name[:2] for name in pixels(run / "images")}) == ["00"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["complete"] is False
    assert metrics["failed_styles"] == ["05"]


def test_references_are_scored_as_they_were_trained_on(lab: Lab, challenge: Path, tmp_path: Path) -> None:
    root = tmp_path / "odd"
    shutil.copytree(challenge, root)
    images = root / "00" / "images"
    deep = np.random.default_rng(0).integers(0, 65536, (72, 72), dtype=np.uint16)
    Image.fromarray(deep).save(images / "deep.png")  # 16 bits a pixel
    clear = Image.open(images / "cat.png").convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    clear.save(images / "cat.png")
    result, _ = lab.run(f"data.root={root}", "method=base")
    white = noise(72, 0)
    white.paste("white", (0, 0, 72, 72))
    white.save(images / "cat.png")
    same, _ = lab.run(f"data.root={root}", "method=base")
    assert result.final_score is not None
    assert result.final_score == same.final_score


def test_run_folder_used_again_holds_one_trial_only(lab: Lab) -> None:
    lab.run("method=base")
    lab.runs = 0
    _, run = lab.run("method=base", "data.styles=[05]")
    assert sorted(pixels(run / "images")) == ["05/Dog.png", "05/Ice cream.png"]
    assert sorted(pixels(run / "earlier" / "1" / "images"))[0] == "00/Dog.png"
    assert json.loads((run / "trial.json").read_text())["config"]["data"]["styles"] == ["05"]


def test_seeds_that_name_nothing_are_said(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    seeds = lab.root / "seeds.json"
    seeds.write_text(json.dumps({"00": {"Dog": 7, "Dgo": 8}, "5": {"Dog": 9}}))
    lab.run("method=base", f"sampler.seeds={seeds}")
    assert "1 prompts that this trial does not draw: 00/Dgo" in caplog.text
    assert "1 styles that this trial does not draw: 5" in caplog.text


def test_two_styles_with_the_same_pictures_to_draw(lab: Lab) -> None:
    seeds = lab.root / "seeds.json"
    seeds.write_text(json.dumps({style: {"Dog": 7, "Ice cream": 8} for style in STYLES}))
    _, run = lab.run("method=base", f"sampler.seeds={seeds}")
    drawn = pixels(run / "images")
    assert len(drawn) == 4
    assert np.array_equal(drawn["00/Dog.png"], drawn["05/Dog.png"])


def test_names_as_long_as_a_file_can_have(lab: Lab) -> None:
    word, style = "狗" * 83, "风" * 85  # 249 bytes and .png; 255 bytes
    root = lab.root / "long"
    make_style(root / style, pictures=(), prompts={"0": word})
    noise(72, 1).save(root / style / "images" / "cat.png")
    settings = (f"data.root={root}", "method=prior", "method.init.picture=average", "method.prior.per_word=1")
    _, run = lab.run(
        *(f"{k}='{v}'" for k, _, v in (s.partition("=") for s in settings[:1])),
        *settings[1:],
        "method.prior.sampler.steps=2",
        "evaluation.judges=none",
    )
    assert list(pixels(run / "images")) == [f"{style}/{word}.png"]


def test_scorer_that_cannot_score_is_a_failed_attempt(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluation
    from evaluation.pictures import PictureError
    from jdx.errors import BackendError

    def fail(*_: Any) -> Any:
        raise PictureError("Dog.png: not a readable picture")

    monkeypatch.setattr(evaluation.Scorer, "marks", fail)
    with pytest.raises(BackendError, match=r"scoring: Dog\.png"):
        lab.run("method=base")
