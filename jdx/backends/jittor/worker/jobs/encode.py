"""The VAE posterior of every training view, in Jittor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np

from jdx.backends.base import CropSpec, EncodeJob
from jdx.backends.jittor.worker.jobs.moment_files import write_styles
from jdx.backends.jittor.worker.jobs.pictures import Floats, to_pixels
from jdx.backends.jittor.worker.jobs.sizes import in_batches, pictures_at_once
from jdx.backends.jittor.worker.nets.models import Models, load
from jdx.backends.jittor.worker.tell import Tell
from jdx.backends.views import resized, view

GIB_AT_512 = 3.0
"""Working memory of the VAE's encoder for one picture of 512 px in float32."""


def run(job: EncodeJob, out: Path, tell: Tell) -> None:
    """Write out/STYLE/moments.safetensors for every style, see `Backend.encode`; finished files are kept.

    Raises: ConfigError with every fault of the job, data.faults.DataError for a picture that cannot be read.
    """
    models = load(job.model, tell.dtype)

    def moments(style: str) -> dict[str, Floats]:
        return style_moments(models, style, [Path(p) for p in job.pictures[style]], job.crop, tell)

    write_styles(job, out, tell, models.vae_factor, moments)


def style_moments(
    models: Models, style: str, pictures: Sequence[Path], crop: CropSpec, tell: Tell
) -> dict[str, Floats]:
    """`mean` and `std`, float32 (pictures, variants, C, h, w)."""
    sized = lru_cache(maxsize=1)(partial(resized, crop=crop))  # variants of a picture follow each other
    views = [(picture, variant) for picture in pictures for variant in range(crop.variants)]
    parts = []
    for batch in in_batches(views, pictures_at_once(crop.resolution, GIB_AT_512)):
        squares = [view(sized(path), crop, crop.seed, style, path.stem, variant) for path, variant in batch]
        parts.append(moments_of(models, np.stack([to_pixels(square) for square in squares])))
        tell.advance(len(batch))
    mean, std = (np.concatenate(some) for some in zip(*parts, strict=True))
    shape = (len(pictures), crop.variants, *mean.shape[1:])
    return {"mean": mean.reshape(shape), "std": std.reshape(shape)}


def moments_of(models: Any, pixels: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation (n, C, h, w) of the VAE posterior of pixels (n, 3, H, W) in [-1, 1], unscaled."""
    with jt.no_grad():
        mean, std = models.moments(jt.array(pixels))
        return mean.numpy(), std.numpy()
