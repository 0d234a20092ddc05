"""Pictures equal diffusers' own pipelines for the same seeds: another program is the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor

from jdx.backends.base import ModelSpec, SamplerSpec
from jdx.backends.torch.inference import Denoiser
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.pictures import to_levels, to_pixels
from jdx.backends.torch.sampling import from_noise, from_picture, sample, start_run
from jdx.errors import ConfigError

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "unipc": UniPCMultistepScheduler,
    "dpmpp": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
SD21 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
SEEDS, PROMPTS, NEGATIVE = (7, 2**40 + 1), ("an image of cat", "zebra in style_03"), "blurry"
Levels = npt.NDArray[np.uint8]


@pytest.fixture(params=["v_prediction", "epsilon"])
def folder(request: pytest.FixtureRequest, tiny_sd: Path, tiny_sd_eps: Path) -> Path:
    return tiny_sd if request.param == "v_prediction" else tiny_sd_eps


def drawn(
    models: Models, spec: SamplerSpec, picture: Image.Image | None = None, strength: float = 1.0
) -> Tensor:
    """Pixels of both prompts, by jdx."""
    run = start_run(spec, models.scheduler_config, strength if picture else None)
    if picture:
        latents = from_picture(models, run, SEEDS, models.moments(to_pixels(picture)[None]))
    else:
        latents = from_noise(models, run, SEEDS, 64)
    negative = models.embed([NEGATIVE] * 2)
    return models.decode(
        sample(Denoiser(models), run, latents, models.embed(PROMPTS), negative, spec.guidance_scale)
    )


def generators() -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS]


def assert_same_pictures(ours: Tensor, theirs: npt.NDArray[np.float32]) -> None:
    """`theirs` in [0, 1]: equal to the rounding of float32, and almost every level the same."""
    unit = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert unit.std() > 0.05  # a grey picture would equal any other
    assert np.abs(unit - theirs).max() < 1e-3
    assert (to_levels(ours).numpy() == (theirs * 255).round().astype(np.uint8)).mean() > 0.999


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_text_to_image_equals_diffusers(folder: Path, name: str, guidance: float) -> None:
    models = load(ModelSpec(str(folder)), "cpu", torch.float32)
    ours = drawn(models, SamplerSpec(name, 4, guidance))  # type: ignore[arg-type]
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler = SCHEDULERS[name].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        list(PROMPTS), negative_prompt=[NEGATIVE] * 2, num_inference_steps=4, guidance_scale=guidance,
        height=64, width=64, generator=generators(), output_type="np",
    ).images  # fmt: skip
    assert_same_pictures(ours, theirs)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_image_to_image_equals_diffusers(folder: Path, name: str) -> None:
    models = load(ModelSpec(str(folder)), "cpu", torch.float32)
    levels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(levels).resize((64, 64), Image.Resampling.BICUBIC)
    ours = drawn(models, SamplerSpec(name, 5, 7.5), picture, 0.6)  # type: ignore[arg-type]
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(folder)
    pipeline.scheduler = SCHEDULERS[name].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        list(PROMPTS), image=[picture] * 2, strength=0.6, negative_prompt=[NEGATIVE] * 2,
        num_inference_steps=5, guidance_scale=7.5, generator=generators(), output_type="np",
    ).images  # fmt: skip
    assert_same_pictures(ours, theirs)


def test_start_from_the_posteriors_mean_equals_diffusers_from_latents(tiny_sd: Path) -> None:
    """A diffusers user may give an "image" of four channels, clean latents; it then draws the diffusion noise alone."""
    models = load(ModelSpec(str(tiny_sd)), "cpu", torch.float32)
    levels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    moments = models.moments(to_pixels(Image.fromarray(levels))[None])
    run = start_run(SamplerSpec("ddim", 5, 7.5), models.scheduler_config, 0.6)
    latents = from_picture(models, run, SEEDS, moments, sampled=False)
    ours = models.decode(
        sample(Denoiser(models), run, latents, models.embed(PROMPTS), models.embed([""] * 2), 7.5)
    )
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(tiny_sd)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        list(PROMPTS), image=models.scaled(moments[0]).repeat(2, 1, 1, 1), strength=0.6, num_inference_steps=5,
        guidance_scale=7.5, generator=generators(), output_type="np",
    ).images  # fmt: skip
    assert_same_pictures(ours, theirs)


@pytest.mark.parametrize(
    ("strength", "count", "first", "signal", "noise"),
    [(0.80, 32, 776, 0.2129, 0.9771), (0.90, 36, 876, 0.1344, 0.9909), (0.95, 38, 926, 0.1037, 0.9946)],
)
def test_average_picture_starts_where_the_contest_entries_did(
    strength: float, count: int, first: int, signal: float, noise: float
) -> None:
    """Origin: timesteps and amplitudes of 40 DDIM steps of SD 2.1, published average-image recipes."""
    run = start_run(SamplerSpec("ddim", 40, 7.5), SD21, strength)
    assert len(run.timesteps) == count
    assert int(run.timesteps[0]) == first
    one = torch.ones(1, 1, 1, 1)
    zero = torch.zeros(1, 1, 1, 1)
    assert run.scheduler.add_noise(one, zero, run.timesteps[:1]).item() == pytest.approx(signal, abs=5e-5)
    assert run.scheduler.add_noise(zero, one, run.timesteps[:1]).item() == pytest.approx(noise, abs=5e-5)


@pytest.mark.parametrize(("steps", "first", "last"), [(50, 981, 1), (25, 961, 1), (40, 976, 1), (20, 951, 1)])
def test_leading_timesteps_of_sd21(steps: int, first: int, last: int) -> None:
    """Origin: what published runs of SD 2.1 with DDIM visit."""
    timesteps = start_run(SamplerSpec("ddim", steps, 7.5), SD21).timesteps.tolist()
    assert (timesteps[0], timesteps[-1], len(timesteps)) == (first, last, steps)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1, 0.09])
def test_a_start_that_leaves_no_step_is_an_error(strength: float) -> None:
    with pytest.raises(ConfigError, match="strength"):
        start_run(SamplerSpec("ddim", 10, 7.5), SD21, strength)


def test_unknown_sampler_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="ddim, unipc, dpmpp, euler"):
        start_run(SamplerSpec("ddpm", 10, 7.5), SD21)  # type: ignore[arg-type]


def test_a_picture_does_not_know_its_batch(tiny_sd: Path) -> None:
    models = load(ModelSpec(str(tiny_sd)), "cpu", torch.float64)
    run = start_run(SamplerSpec("dpmpp", 3, 7.5), models.scheduler_config)
    together = from_noise(models, run, SEEDS, 64)
    assert torch.equal(together[1:], from_noise(models, run, SEEDS[1:], 64))
    text, negative = models.embed(PROMPTS), models.embed([NEGATIVE] * 2)
    both = sample(Denoiser(models), run, together, text, negative, 7.5)
    run = start_run(SamplerSpec("dpmpp", 3, 7.5), models.scheduler_config)
    alone = sample(Denoiser(models), run, together[1:], text[1:], negative[1:], 7.5)
    assert (both[1:] - alone).abs().max() < 1e-10


def test_guidance_at_one_leaves_the_negative_out(tiny_sd: Path) -> None:
    models = load(ModelSpec(str(tiny_sd)), "cpu", torch.float64)

    def latents(scale: float, negative: str) -> Tensor:
        run = start_run(SamplerSpec("ddim", 2, scale), models.scheduler_config)
        noise = from_noise(models, run, SEEDS, 64)
        return sample(
            Denoiser(models), run, noise, models.embed(PROMPTS), models.embed([negative] * 2), scale
        )

    plain = latents(1.0, "")
    assert torch.equal(plain, latents(1.0, NEGATIVE))
    assert (plain - latents(1.0 + 1e-9, NEGATIVE)).abs().max() < 1e-6
    assert (plain - latents(3.0, NEGATIVE)).abs().max() > 1e-3
