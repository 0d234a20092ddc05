"""The VAE posterior of every training view, by JDiffusion's autoencoder."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import jittor as jt
import numpy as np

from jdx.backends.base import EncodeJob
from jdx.backends.jittor.jdiffusion.networks import Floats, JdModels, load
from jdx.backends.jittor.worker.jobs.moment_files import write_styles
from jdx.backends.jittor.worker.jobs.pictures import to_pixels
from jdx.backends.jittor.worker.tell import Tell
from jdx.backends.views import resized, view


def run(job: EncodeJob, out: Path, tell: Tell) -> None:
    """Write out/STYLE/moments.safetensors for every style, see `Backend.encode`; finished files are kept.

    Raises: ConfigError with every fault of the job.
    """
    models = load(job.model, tell)
    write_styles(job, out, tell, models.vae_factor, lambda style: _moments(models, style, job, tell))


def _moments(models: JdModels, style: str, job: EncodeJob, tell: Tell) -> dict[str, Floats]:
    """`mean` and `std`, float32 (pictures, variants, C, h, w); one view in a pass."""
    crop, pictures = job.crop, [Path(path) for path in job.pictures[style]]
    sized = lru_cache(maxsize=1)(partial(resized, crop=crop))  # variants of a picture follow each other
    found: dict[str, list[Floats]] = {"mean": [], "std": []}
    for picture in pictures:
        for variant in range(crop.variants):
            square = view(sized(picture), crop, crop.seed, style, picture.stem, variant)
            with jt.no_grad():
                parts = models.moments(jt.array(to_pixels(square)[None]))
            for name, part in zip(found, parts, strict=True):
                found[name].append(np.asarray(part.numpy(), np.float32))
            tell.advance()
    whole = {name: np.concatenate(parts) for name, parts in found.items()}
    shape = (len(pictures), crop.variants, *whole["mean"].shape[1:])
    return {name: part.reshape(shape) for name, part in whole.items()}
