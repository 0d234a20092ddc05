"""Reference pictures as training views, and the VAE posterior of every view."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from jdx.backends.base import CropSpec, EncodeJob, OnStyle
from jdx.backends.samples import MOMENTS
from jdx.backends.torch.devices import in_batches, pictures_that_fit, send
from jdx.backends.torch.models import Models
from jdx.backends.torch.pictures import to_pixels
from jdx.backends.views import HEADER, crop_faults, record, record_of, resized, view
from jdx.errors import ConfigError
from jdx.files import write_bytes
from jdx.progress import Progress, Task

Ready = list[Future[list[Tensor]]]
"""The views of each of a style's pictures, (3, H, W) in [-1, 1], or about to be."""
READERS = 4
"""Threads that prepare views: a picture takes one core about as long as a GPU needs to encode it."""
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
    with progress.task("encoding", total) as task, _readers() as pool:
        for style, ready in _one_ahead(job.pictures, partial(_prepared, job, out, pool)):
            file = out / style / MOMENTS
            if ready is None:
                task.advance(len(job.pictures[style]) * job.crop.variants)
            else:
                moments = _moments(models, style, ready, job.crop, task)
                header = {HEADER: json.dumps(record(job, job.pictures[style]), sort_keys=True)}
                write_bytes(file, safetensors.torch.save(moments, metadata=header))
            on_style(style, file.parent)


@contextmanager
def _readers() -> Iterator[ThreadPoolExecutor]:
    """Threads that decode and cut; what they have not begun when an error ends the job is dropped."""
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="view")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _one_ahead(
    styles: Iterable[str], prepare: Callable[[str], Ready | None]
) -> Iterator[tuple[str, Ready | None]]:
    """The styles in order, each prepared while the one before is being encoded."""
    under_way: deque[tuple[str, Ready | None]] = deque()
    for style in styles:
        under_way.append((style, prepare(style)))
        if len(under_way) > 1:
            yield under_way.popleft()
    yield from under_way


def _prepared(job: EncodeJob, out: Path, pool: ThreadPoolExecutor, style: str) -> Ready | None:
    """A style's views, picture by picture; None where a finished file of the same pictures and crop is there."""
    pictures = job.pictures[style]
    if record_of(out / style / MOMENTS) == record(job, pictures):
        return None
    return [pool.submit(_views, job.crop, style, Path(picture)) for picture in pictures]


def _views(crop: CropSpec, style: str, picture: Path) -> list[Tensor]:
    whole = resized(picture, crop)
    names = ((crop.seed, style, picture.stem, variant) for variant in range(crop.variants))
    return [to_pixels(view(whole, crop, *name)) for name in names]


def _moments(models: Models, style: str, ready: Ready, crop: CropSpec, task: Task) -> dict[str, Tensor]:
    """`mean` and `std`, float32 on the CPU, (pictures, variants, C, h, w)."""
    views = [(picture, variant) for picture in ready for variant in range(crop.variants)]
    size = pictures_that_fit(models.device, crop.resolution, GIB_AT_512)

    def moments(batch: Sequence[tuple[Future[list[Tensor]], int]]) -> tuple[Tensor, Tensor]:
        pixels = torch.stack([picture.result()[variant] for picture, variant in batch])
        mean, std = models.moments(send(pixels, models.device))
        task.advance(len(batch))
        return mean.float().cpu().contiguous(), std.float().cpu().contiguous()

    batches = in_batches(views, size, moments, f"encoding style {style}")
    shape = (len(ready), crop.variants)
    mean, std = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return {"mean": mean.reshape(*shape, *mean.shape[1:]), "std": std.reshape(*shape, *std.shape[1:])}
