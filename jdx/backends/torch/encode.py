"""Reference pictures as training views, and the VAE posterior of every view."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from jdx import draws
from jdx.backends.base import CropSpec, EncodeJob, OnStyle
from jdx.backends.samples import MOMENTS
from jdx.backends.torch.devices import in_batches, pictures_that_fit, send
from jdx.backends.torch.models import Models
from jdx.backends.torch.pictures import to_pixels
from jdx.backends.views import HEADER, crop_faults, record, record_of, resized, view
from jdx.errors import ConfigError
from jdx.files import write_bytes
from jdx.progress import Progress, Task

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
    size = pictures_that_fit(models.device, job.crop.resolution, GIB_AT_512)
    with progress.task("encoding", total) as task, _readers() as pool:
        for style, views in _one_ahead(job.pictures, partial(_prepared, job, out, pool, 2 * size)):
            file = out / style / MOMENTS
            if views is None:
                task.advance(len(job.pictures[style]) * job.crop.variants)
            else:
                moments = _moments(models, style, views, size, task)
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
    styles: Iterable[str], prepare: Callable[[str], Views | None]
) -> Iterator[tuple[str, Views | None]]:
    """The styles in order, each prepared while the one before is being encoded."""
    under_way: deque[tuple[str, Views | None]] = deque()
    for style in styles:
        under_way.append((style, prepare(style)))
        if len(under_way) > 1:
            yield under_way.popleft()
    yield from under_way


def _prepared(job: EncodeJob, out: Path, pool: ThreadPoolExecutor, ahead: int, style: str) -> Views | None:
    """A style's views; None where a finished file of the same pictures and crop is there."""
    pictures = job.pictures[style]
    if record_of(out / style / MOMENTS) == record(job, pictures):
        return None
    return Views(pool, job.crop, style, [Path(picture) for picture in pictures], ahead)


class Views:
    """The views of a style's pictures, variant by variant, made in threads at most `ahead` before they are taken.

    All of them at once would be 3 MB each at 512 px, and a picture may have hundreds.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, crop: CropSpec, style: str, pictures: Sequence[Path], ahead: int
    ):
        self.shape, self._pool, self._ahead = (len(pictures), crop.variants), pool, ahead
        wholes = [pool.submit(resized, picture, crop) for picture in pictures]
        self._work = [
            partial(_view, whole, crop, (crop.seed, style, picture.stem, variant))
            for picture, whole in zip(pictures, wholes, strict=True)
            for variant in range(crop.variants)
        ]
        self._made: dict[int, Future[Tensor]] = {}
        self._begun = 0
        self._begin(ahead)

    def take(self, places: Sequence[int]) -> Tensor:
        """Some of the views, (n, 3, H, W) in [-1, 1]; they may be taken again until they are `used`."""
        self._begin(places[-1] + 1 + self._ahead)
        return torch.stack([self._made[place].result() for place in places])

    def used(self, places: Sequence[int]) -> None:
        """Let go of some views."""
        for place in places:
            del self._made[place]

    def _begin(self, end: int) -> None:
        for place in range(self._begun, min(end, len(self._work))):
            self._made[place] = self._pool.submit(self._work[place])
            self._begun = place + 1


def _view(whole: Future[Image.Image], crop: CropSpec, name: tuple[draws.Name, ...]) -> Tensor:
    # Its picture was given to the threads before it and waits for nothing, so this wait ends.
    return to_pixels(view(whole.result(), crop, *name))


def _moments(models: Models, style: str, views: Views, size: int, task: Task) -> dict[str, Tensor]:
    """`mean` and `std`, float32 on the CPU, (pictures, variants, C, h, w)."""

    def moments(places: Sequence[int]) -> tuple[Tensor, Tensor]:
        mean, std = models.moments(send(views.take(places), models.device))
        done = mean.float().cpu().contiguous(), std.float().cpu().contiguous()
        views.used(places)
        task.advance(len(places))
        return done

    batches = in_batches(range(math.prod(views.shape)), size, moments, f"encoding style {style}")
    mean, std = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return {name: x.reshape(*views.shape, *x.shape[1:]) for name, x in (("mean", mean), ("std", std))}
