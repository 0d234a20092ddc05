"""The VAE prompt enhancer in drawing: its file, and its bias in the pictures of a diffusers user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from jdx.backends.base import ModelSpec, PlainPrompt, StyleDrawJob
from jdx.backends.enhancer_files import FILE, HEADER
from jdx.backends.torch.adapters import FILE as LORA
from jdx.backends.torch.adapters import save_adapter
from jdx.backends.torch.enhancer import Enhancer, add, form_of, load_enhancer, save_enhancer
from jdx.backends.torch.models import Models, load
from jdx.errors import ConfigError
from jdx.methods.enhancer import first_vector
from tests.jdx.backends.adapters_for import random_adapter
from tests.jdx.backends.test_generate import assert_same, job, run, style


@pytest.fixture(scope="module")
def tiny(tiny_sd: Path) -> Models:
    return load(ModelSpec(str(tiny_sd)), "cpu", torch.float32)


def random_enhancer(models: Models, weight: float = 2.0) -> Enhancer:
    """One whose bias, about a third of the text states' size, is seen in every picture."""
    form = form_of(models)
    rows, columns = form.grid
    seen = torch.rand(2 * form.channels, 2 * rows, 2 * columns, generator=torch.Generator().manual_seed(2))
    about = {"style": "00", "resolution": 64}
    return Enhancer(form, weight, first_vector(form, "first", 1, "00"), seen, about)


@pytest.fixture(scope="module")
def folder(tiny: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of both networks with an enhancer beside it."""
    path = tmp_path_factory.mktemp("adapter") / "a"
    adapter = random_adapter(tiny, rank=3, alpha=2.0)
    save_adapter(path, adapter.unet, adapter.text_encoder, {})
    save_enhancer(path, random_enhancer(tiny))
    return path


def test_file_holds_all_that_drawing_needs(tiny: Models, tmp_path: Path) -> None:
    enhancer = random_enhancer(tiny)
    save_enhancer(tmp_path, enhancer)
    found = load_enhancer(tmp_path, tiny)
    assert found is not None
    assert (found.form, found.weight) == (enhancer.form, enhancer.weight)
    assert torch.equal(found.vector, enhancer.vector)
    assert torch.equal(found.seen, enhancer.seen)
    assert torch.equal(found.bias(), enhancer.bias())
    assert (found.metadata["style"], found.metadata["resolution"]) == ("00", 64)
    assert load_enhancer(tmp_path / "elsewhere", tiny) is None


@pytest.mark.parametrize("branches", ["conditional", "both"])
def test_pictures_are_those_of_a_diffusers_user_who_adds_the_bias(
    branches: Literal["conditional", "both"], tiny: Models, folder: Path, tiny_sd: Path, tmp_path: Path
) -> None:
    wanted = style("00", folder, enhanced=branches)
    ours = run(tiny, job(tiny, wanted), tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
    pipeline.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    pipeline.set_progress_bar_config(disable=True)
    prompts, negatives = pipeline.encode_prompt(
        [one.prompt for one in wanted.pictures], "cpu", 1, True,
        negative_prompt=[one.negative_prompt for one in wanted.pictures],
    )  # fmt: skip
    bias = random_enhancer(tiny).bias()

    def draw(prompts: Tensor, negatives: Tensor) -> dict[str, Any]:
        drawn = pipeline(
            prompt_embeds=prompts, negative_prompt_embeds=negatives,
            generator=[torch.Generator("cpu").manual_seed(one.seed) for one in wanted.pictures],
            num_inference_steps=2, guidance_scale=7.5, height=64, width=64,
        ).images  # fmt: skip
        return {f"00/{one.file}": np.asarray(p) for one, p in zip(wanted.pictures, drawn, strict=True)}

    theirs = draw(prompts + bias, negatives + bias if branches == "both" else negatives)
    assert_same(ours, theirs)
    plain = draw(prompts, negatives)
    assert all(np.abs(ours[name].astype(int) - plain[name]).max() > 10 for name in ours)


def test_the_plain_prompt_stays_plain(tiny: Models, folder: Path, tmp_path: Path) -> None:
    """Wholly the plain prompt's embeddings: the enhancer has no say, even when prompt and plain prompt agree."""
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / LORA).write_bytes((folder / LORA).read_bytes())

    def mixed(adapter: Path) -> StyleDrawJob:
        one = style("00", adapter)
        plain = [replace(p, plain=PlainPrompt(p.prompt, p.negative_prompt, 1.0)) for p in one.pictures]
        return replace(one, pictures=tuple(plain))

    enhanced = run(tiny, job(tiny, mixed(folder)), tmp_path / "enhanced")
    assert_same(enhanced, run(tiny, job(tiny, mixed(bare)), tmp_path / "without"))


def test_other_styles_of_a_job_stay_without_it(tiny: Models, folder: Path, tmp_path: Path) -> None:
    alone = run(tiny, job(tiny, style("01", None)), tmp_path / "alone")
    both = run(tiny, job(tiny, style("00", folder), style("01", None)), tmp_path / "both")
    assert_same({name: picture for name, picture in both.items() if name.startswith("01/")}, alone)


def test_any_size_is_drawn_with_the_bias_of_training(tiny: Models, folder: Path, tmp_path: Path) -> None:
    """Trained at 64 px, drawn at 128: the file brings what the enhancer has seen."""
    from jdx.backends.torch.generate import generate
    from jdx.progress import NullProgress

    todo = replace(job(tiny, style("00", folder)), resolution=128)
    generate(todo, tiny, tmp_path, NullProgress(), lambda style, path: None)
    assert len(list(tmp_path.rglob("*.png"))) == 3


def test_bias_is_added_before_rounding() -> None:
    """Rounded to bfloat16 first, the bias would be exactly half a unit of 1.0 and vanish."""
    states, bias = torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([0.00391])
    assert add(states, bias).item() == 1.0078125
    assert (states + bias.to(states)).item() == 1.0
    assert add(states.double(), bias.double()).dtype == torch.float64


Spoil = Callable[[dict[str, Tensor], dict[str, str]], object]
SPOILT: dict[str, tuple[Spoil, str]] = {
    "another model": (
        lambda t, h: h.update({HEADER: '{"channels": 4, "tokens": 77, "width": 1024, "weight": 0.01}'}),
        "32 for this base model",
    ),
    "not ours": (lambda t, h: h.clear(), "a file that jdx wrote"),
    "a layer is missing": (lambda t, h: t.pop("conv2.bias"), "conv2.bias"),
    "a layer too many": (lambda t, h: t.update({"conv4.bias": torch.zeros(1)}), "no tensor of an enhancer"),
    "wrong shape": (lambda t, h: t.update({"conv2.bias": torch.zeros(7)}), "must be (38,)"),
    "not finite": (lambda t, h: t.update({"conv2.bias": torch.full((38,), torch.nan)}), "must be finite"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_bad_files_are_refused(case: str, tiny: Models, tmp_path: Path) -> None:
    file = save_enhancer(tmp_path, random_enhancer(tiny))
    form = form_of(tiny)
    tensors = load_file(file)
    header = {HEADER: f'{{"channels": 4, "tokens": {form.tokens}, "width": {form.width}, "weight": 1.0}}'}
    spoil, words = SPOILT[case]
    spoil(tensors, header)
    save_file(tensors, file, metadata=header)
    with pytest.raises(ConfigError) as caught:
        load_enhancer(tmp_path, tiny)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_torn_file_is_refused(tiny: Models, tmp_path: Path) -> None:
    file = save_enhancer(tmp_path, random_enhancer(tiny))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_enhancer(tmp_path, tiny)


def test_diverged_numbers_are_not_saved(tiny: Models, tmp_path: Path) -> None:
    enhancer = random_enhancer(tiny)
    with pytest.raises(ValueError, match="not finite"):
        save_enhancer(tmp_path, replace(enhancer, vector=enhancer.vector * torch.inf))
    assert not (tmp_path / FILE).exists()
