"""Drawing latents: a sampler's loop around the UNet, and the latents that a picture starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
from safetensors import safe_open

from jdx.backends.jittor.protocol import NOISE
from jdx.backends.jittor.worker.jobs.pictures import Floats
from jdx.backends.jittor.worker.jobs.samplers import Sampler
from jdx.backends.jittor.worker.nets.models import Models

DECODED = 4
"""Pictures the VAE decodes in one pass; its widest activations would otherwise rule the memory."""


class Noise:
    """Each picture's noise by its seed, written by whoever ordered the job: PyTorch's own generator is not here."""

    def __init__(self, inputs: Path):
        self._file: Any = safe_open(str(inputs / NOISE), framework="np")

    def __call__(self, seed: int) -> tuple[Floats, Floats]:
        """The first and the second standard normal (C, h, w) of a seed's generator."""
        first, second = np.asarray(self._file.get_tensor(str(seed)), np.float32)
        return first, second


def from_noise(sampler: Sampler, noise: Noise, seeds: Sequence[int]) -> Floats:
    """First latents (n, C, h, w) of a drawing from nothing."""
    return np.stack([noise(seed)[0] for seed in seeds]) * sampler.noise_scale


def from_picture(
    models: Models,
    sampler: Sampler,
    noise: Noise,
    seeds: Sequence[int],
    moments: tuple[Floats, Floats],
    sampled: bool,
) -> Floats:
    """First latents (n, C, h, w) near a picture: its posterior's sample or mean, noised to the first time step.

    moments: mean and standard deviation (1, C, h, w). A seed's first noise is the posterior's where that is
    sampled, its next the diffusion's.
    """
    mean, std = (part[0] for part in moments)
    latents = []
    for seed in seeds:
        first, second = noise(seed)
        z = models.scaled(mean + std * first if sampled else mean)
        latents.append(sampler.noised(z, second if sampled else first))
    return np.stack(latents)


def sample(
    models: Models,
    sampler: Sampler,
    latents: Floats,
    text: Floats,
    negative: Floats,
    guidance_scale: float,
    tick: Callable[[], None],
    around: Callable[[int], AbstractContextManager[None]] = lambda step: nullcontext(),
) -> Floats:
    """Clean latents (n, C, h, w) in the UNet's scale.

    text, negative: states (n, tokens, width). Classifier-free guidance (Ho and Salimans 2022) runs both in one
    batch and is skipped at scale 1. tick: called after each step. around(i): what the UNet's pass of step i, counted
    from 0, runs inside.
    """
    guided = guidance_scale != 1.0
    with jt.no_grad():
        states = jt.array(np.concatenate([negative, text]) if guided else text).cast(models.dtype)
        for step, t in enumerate(sampler.timesteps):
            x = sampler.network_input(latents)
            with around(step):
                answer = denoised(models, np.concatenate([x, x]) if guided else x, t, states)
            if guided:
                without, with_text = np.split(answer, 2)
                answer = without + guidance_scale * (with_text - without)
            latents = sampler.step(answer, latents)
            tick()
    return latents


def denoised(models: Models, x: Floats, t: float, states: Any) -> Floats:
    """The UNet's answer (n, C, h, w) to latents at time step t with text states (n, tokens, width)."""
    answer: Floats = models.unet(jt.array(x).cast(models.dtype), np.array([t]), states).float32().numpy()
    return answer


def decoded(models: Models, latents: Floats) -> Floats:
    """Pixels (n, 3, H, W) in [-1, 1] of latents in the UNet's scale."""
    with jt.no_grad():
        parts = [latents[i : i + DECODED] for i in range(0, len(latents), DECODED)]
        return np.concatenate([models.decode(jt.array(part)).float32().numpy() for part in parts])
