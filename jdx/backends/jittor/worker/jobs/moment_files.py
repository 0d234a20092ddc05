"""The files of an encoding job, whichever autoencoder makes what is in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import safetensors.numpy

from jdx.backends.base import EncodeJob
from jdx.backends.jittor.worker.jobs.pictures import Floats
from jdx.backends.jittor.worker.tell import Tell
from jdx.backends.samples import MOMENTS
from jdx.backends.views import HEADER, crop_faults, record, record_of
from jdx.errors import ConfigError
from jdx.files import write_bytes


def write_styles(
    job: EncodeJob, out: Path, tell: Tell, vae_factor: int, moments: Callable[[str], dict[str, Floats]]
) -> None:
    """Write out/STYLE/moments.safetensors for every style, see `Backend.encode`; finished files are kept.

    moments(style): `mean` and `std`, float32 (pictures, variants, C, h, w); it tells of every view.
    Raises: ConfigError with every fault of the job.
    """
    if faults := crop_faults(job, vae_factor):
        raise ConfigError(faults, what="encoding job")
    tell.progress("encoding", sum(len(pictures) for pictures in job.pictures.values()) * job.crop.variants)
    for style, pictures in job.pictures.items():
        file, about = out / style / MOMENTS, record(job, pictures)
        if record_of(file) == about:
            tell.advance(len(pictures) * job.crop.variants)
        else:
            header = {HEADER: json.dumps(about, sort_keys=True)}
            write_bytes(file, safetensors.numpy.save(moments(style), metadata=header))
        tell.style(style, file.parent)
