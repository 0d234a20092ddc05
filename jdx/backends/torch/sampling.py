"""Drawing latents: diffusers' schedulers in a plain loop, and the latents that a picture starts from.

A picture is a function of its own seed and prompt, never of its batch: its first noise comes from a CPU
generator seeded with the picture's seed, so that `generator=torch.Generator("cpu").manual_seed(seed)` gives a
user of a float32 diffusers pipeline the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jdx.backends.base import SamplerSpec
from jdx.backends.torch.devices import send
from jdx.backends.torch.models import Models
from jdx.backends.torch.tables import Table, at, table_of
from jdx.errors import ConfigError, Fault

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents (N, C, h, w), time step (), text states (N, tokens, width)) -> the network's answer (N, C, h, w)."""
Around = Callable[[int], AbstractContextManager[None]]
SAMPLERS = {
    "ddim": "DDIMScheduler",  # Song et al. 2021, eta 0
    "unipc": "UniPCMultistepScheduler",  # Zhao et al. 2023
    "dpmpp": "DPMSolverMultistepScheduler",  # DPM-Solver++ 2M, Lu et al. 2022
    "euler": "EulerDiscreteScheduler",  # Karras et al. 2022, algorithm 2 without churn
}


@dataclass(frozen=True)
class Run:
    """A scheduler that is set to its first step, and the timesteps still to do, on the CPU."""

    scheduler: Any
    timesteps: Tensor


def start_run(spec: SamplerSpec, config: Mapping[str, Any], strength: float | None = None) -> Run:
    """The sampler of `spec` on the model's own scheduler config; one run of one batch.

    strength: None to start from noise; else img2img (Meng et al. 2021), which does the last
    min(int(steps · strength), steps) of the steps. Raises ConfigError when none is left, or the name is
    unknown.
    """
    scheduler = _scheduler(spec.name, config)
    scheduler.set_timesteps(spec.steps)
    timesteps = scheduler.timesteps.to("cpu")
    count = len(timesteps) if strength is None else min(int(spec.steps * strength), spec.steps)
    if strength is not None and not (0 < strength <= 1 and count > 0):
        allowed = f"above 0, at most 1, and strength · {spec.steps} steps at least 1, or none is left to run"
        raise ConfigError([Fault("init.strength", str(strength), allowed)], what="drawing job")
    first = len(timesteps) - count
    if hasattr(
        scheduler, "set_begin_index"
    ):  # DDIM keeps no position; the others would search for it each step
        scheduler.set_begin_index(first)
    return Run(scheduler, timesteps[first:])


def _scheduler(name: str, config: Mapping[str, Any]) -> Any:
    import diffusers
    import diffusers.utils.logging as log

    if name not in SAMPLERS:
        raise ConfigError([Fault("sampler.name", name, f"one of: {', '.join(SAMPLERS)}")], what="drawing job")
    level = log.get_verbosity()
    log.set_verbosity_error()  # each scheduler remarks on the keys that only other schedulers read
    try:
        return getattr(diffusers, SAMPLERS[name]).from_config(dict(config))
    finally:
        log.set_verbosity(level)


def seeded(seed: int) -> torch.Generator:
    """The generator of one picture."""
    return torch.Generator("cpu").manual_seed(seed)


def latent_shape(models: Models, resolution: int) -> tuple[int, int, int]:
    """(C, h, w) of a square picture of `resolution` pixels."""
    side = resolution // models.vae_factor
    return models.latent_channels, side, side


def from_noise(models: Models, run: Run, seeds: Sequence[int], resolution: int) -> Tensor:
    """First latents (n, C, h, w): standard normal noise of each seed, times the scheduler's first sigma."""
    shape = (1, *latent_shape(models, resolution))
    noise = torch.cat([torch.randn(shape, generator=seeded(seed)) for seed in seeds])
    return send(noise, models.device, _wide(models)) * float(run.scheduler.init_noise_sigma)


def from_picture(
    models: Models, run: Run, seeds: Sequence[int], moments: tuple[Tensor, Tensor], sampled: bool = True
) -> Tensor:
    """First latents (n, C, h, w) near a picture: its posterior's sample or mean, noised to the run's first timestep.

    moments: mean and standard deviation (1, C, h, w) of the picture's VAE posterior. Each seed draws the
    posterior's noise (where it is sampled) and then the diffusion noise, in the order of diffusers' img2img pipeline.
    """
    mean, std = (part.to("cpu", _wide(models)) for part in moments)
    latents = []
    for seed in seeds:
        generator = seeded(seed)
        z = models.scaled(mean + std * torch.randn(mean.shape, generator=generator) if sampled else mean)
        noise = torch.randn(mean.shape, generator=generator).to(z)
        latents.append(run.scheduler.add_noise(z, noise, run.timesteps[:1]))
    return send(torch.cat(latents), models.device, _wide(models))


@torch.no_grad()
def sample(
    denoise: Denoise,
    run: Run,
    latents: Tensor,
    text: Tensor,
    negative: Tensor,
    guidance_scale: float,
    around: Around = lambda step: nullcontext(),
) -> Tensor:
    """Clean latents (n, C, h, w) in the UNet's scale, float32 (float64 for a float64 model).

    denoise: the UNet's pass. text, negative: embeddings (n, tokens, width). Classifier-free guidance (Ho and Salimans
    2022) runs both in one batch, e = e(negative) + scale · (e(text) - e(negative)), and is skipped at scale 1. Only the
    UNet runs in the model's precision; the sampler's sums stay wide. around(i): what the UNet's pass of step i,
    counted from 0, runs inside.

    On a GPU the sampler's sums come from its table, equal to the scheduler's own but for rounding.
    """
    context = torch.cat([negative, text]) if guidance_scale != 1.0 else text
    times = list(send(run.timesteps, latents.device).unbind())

    def answer(step: int, x: Tensor) -> Tensor:
        rows = x if guidance_scale == 1.0 else torch.cat([x, x])
        with around(step):
            prediction = denoise(rows, times[step], context).to(latents.dtype)
        if guidance_scale == 1.0:
            return prediction
        without, with_text = prediction.chunk(2)
        return without + guidance_scale * (with_text - without)

    if latents.device.type == "cuda" and (table := table_of(run.scheduler, list(run.timesteps))) is not None:
        return _by_table(table, latents, answer)
    for step, t in enumerate(run.timesteps):
        x = run.scheduler.scale_model_input(latents, t)
        latents = run.scheduler.step(answer(step, x), t, latents).prev_sample
    return latents


def _by_table(table: Table, latents: Tensor, answer: Callable[[int, Tensor], Tensor]) -> Tensor:
    history, weights = table.history(latents), table.on(latents.device, latents.dtype)
    for step in range(table.steps):
        history[step + 1] = answer(step, at(weights, step, history))
    return at(weights, table.steps, history)


def _wide(models: Models) -> torch.dtype:
    return torch.promote_types(models.dtype, torch.float32)
