"""First noises of pictures for a worker that has no PyTorch: the numbers that `torch` backends start from."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from jdx.backends.base import GenerateJob
from jdx.backends.layout import read_json
from jdx.backends.torch.sampling import seeded
from jdx.errors import BackendError


def write_noise(file: Path, job: GenerateJob, folder: Path) -> None:
    """One tensor a seed, named by it: float32 (2, C, h, w), the seed's first and second standard normal draw.

    From noise, and from a start's mean, the first one is the latent's; where a start is sampled, the first one
    samples it and the second one noises it (as diffusers' img2img). folder: of the model.
    """
    shape = (1, *latent_shape(folder, job.resolution))
    seeds = {picture.seed for style in job.styles for picture in style.pictures}
    noises = {}
    for seed in sorted(seeds):
        generator = seeded(seed)
        # Two draws, not one of twice the size: torch rounds the size up to whole blocks of 16.
        noises[str(seed)] = torch.cat([torch.randn(shape, generator=generator) for _ in range(2)])
    save_file(noises, file)


def latent_shape(folder: Path, resolution: int) -> tuple[int, int, int]:
    """(C, h, w) of a square picture's latents, from the VAE's config."""
    config, fault = read_json(folder / "vae" / "config.json")
    if config is None:
        raise BackendError(f"{folder}: {fault}")
    side = resolution // 2 ** (len(config["block_out_channels"]) - 1)
    return int(config.get("latent_channels", 4)), side, side
