"""Reference pictures as training views, and the VAE posterior of every view."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from jdx.backends.base import CropSpec, EncodeJob, OnStyle
from jdx.backends.samples import MOMENTS
from jdx.backends.torch.devices import in_batches, pictures_that_fit
from jdx.backends.torch.models import Models
from jdx.backends.torch.pictures import to_pixels
from jdx.backends.views import HEADER, crop_faults, record, record_of, resized, view
from jdx.errors import ConfigError
from jdx.files import write_bytes
from jdx.progress import Progress, Task

GIB_AT_512 = 1.5
"""Working memory of the VAE's encoder for one picture of 512 px in float32."""


def encode(job: EncodeJob, models: Models, out: Path, progress: Progress, on_style: OnStyle) -> None:
    """Write out/STYLE/moments.safetensors for every style and hand over each folder when it is finished.

    `mean` and `std` are float32 (pictures, variants, C, h, w), unscaled: a latent is (mean + std · n) ·
    scaling. A finished file of the same pictures and crop is kept. Raises ConfigError with every fault of the
    job, and data.challenge's DataError for a picture that cannot be read.
    """
    if faults := crop_faults(job, models.vae_factor):
        raise ConfigError(faults, what="encoding job")
    total = sum(len(pictures) for pictures in job.pictures.values()) * job.crop.variants
    with progress.task("encoding", total) as task:
        for style, pictures in job.pictures.items():
            file = out / style / MOMENTS
            about = record(job, pictures)
            if record_of(file) == about:
                task.advance(len(pictures) * job.crop.variants)
            else:
                moments = style_moments(models, style, [Path(p) for p in pictures], job.crop, task)
                header = {HEADER: json.dumps(about, sort_keys=True)}
                write_bytes(file, safetensors.torch.save(moments, metadata=header))
            on_style(style, file.parent)


def style_moments(
    models: Models, style: str, pictures: Sequence[Path], crop: CropSpec, task: Task
) -> dict[str, Tensor]:
    """`mean` and `std`, float32 on the CPU, (pictures, variants, C, h, w)."""
    sized = lru_cache(maxsize=1)(partial(resized, crop=crop))  # variants of a picture follow each other
    views = [(picture, variant) for picture in pictures for variant in range(crop.variants)]
    size = pictures_that_fit(models.device, crop.resolution, GIB_AT_512)

    def moments(batch: Sequence[tuple[Path, int]]) -> tuple[Tensor, Tensor]:
        squares = [view(sized(path), crop, crop.seed, style, path.stem, variant) for path, variant in batch]
        mean, std = models.moments(torch.stack([to_pixels(square) for square in squares]))
        task.advance(len(batch))
        return mean.float().cpu().contiguous(), std.float().cpu().contiguous()

    batches = in_batches(views, size, moments, f"encoding style {style}")
    shape = (len(pictures), crop.variants)
    mean, std = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return {"mean": mean.reshape(*shape, *mean.shape[1:]), "std": std.reshape(*shape, *std.shape[1:])}
