"""The VAE posterior of every training view, in Jittor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
import safetensors.numpy

from jdx.backends.base import CropSpec, EncodeJob
from jdx.backends.jittor.worker.jobs.pictures import Floats, to_pixels
from jdx.backends.jittor.worker.jobs.sizes import in_batches, pictures_at_once
from jdx.backends.jittor.worker.nets.models import Models, load
from jdx.backends.jittor.worker.tell import Tell
from jdx.backends.samples import MOMENTS
from jdx.backends.views import HEADER, crop_faults, record, record_of, resized, view
from jdx.errors import ConfigError
from jdx.files import write_bytes

GIB_AT_512 = 3.0
"""Working memory of the VAE's encoder for one picture of 512 px in float32."""


def run(job: EncodeJob, out: Path, tell: Tell) -> None:
    """Write out/STYLE/moments.safetensors for every style, see `Backend.encode`; finished files are kept.

    Raises: ConfigError with every fault of the job, data.faults.DataError for a picture that cannot be read.
    """
    models = load(job.model, tell.dtype)
    if faults := crop_faults(job, models.vae_factor):
        raise ConfigError(faults, what="encoding job")
    tell.progress("encoding", sum(len(pictures) for pictures in job.pictures.values()) * job.crop.variants)
    for style, pictures in job.pictures.items():
        file, about = out / style / MOMENTS, record(job, pictures)
        if record_of(file) == about:
            tell.advance(len(pictures) * job.crop.variants)
        else:
            moments = style_moments(models, style, [Path(p) for p in pictures], job.crop, tell)
            header = {HEADER: json.dumps(about, sort_keys=True)}
            write_bytes(file, safetensors.numpy.save(moments, metadata=header))
        tell.style(style, file.parent)


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
