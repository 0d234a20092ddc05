"""Reference pictures as training views, and the VAE posterior of every view."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from jdx import draws
from jdx.backends.base import CropSpec, EncodeJob, OnStyle
from jdx.backends.samples import MOMENTS
from jdx.backends.torch.develop import fetch, reached
from jdx.backends.torch.devices import in_batches, pictures_that_fit, send
from jdx.backends.torch.models import Models
from jdx.backends.torch.pictures import to_pixels
from jdx.backends.torch.repeatable import one_by_one
from jdx.backends.views import HEADER, crop_faults, record, record_of, resized, view
from jdx.beside import Beside, beside, threads
from jdx.errors import ConfigError
from jdx.files import write_bytes
from jdx.progress import Progress, Task

READERS = 8
"""Threads that prepare views: a picture takes one core about as long as a GPU needs to encode it."""
GIB_AT_512 = 1.5
"""Working memory of the VAE's encoder for one picture of 512 px in float32."""
MOST = 16
"""Views in a pass; they are large enough to keep any card busy."""
FILES_AHEAD = 8
"""Styles whose moments may wait for the disk: 10 MB each for ten pictures of eight views."""


def encode(job: EncodeJob, models: Models, out: Path, progress: Progress, on_style: OnStyle) -> None:
    """Write out/STYLE/moments.safetensors for every style and hand over each folder when it is finished.

    `mean` and `std` are float32 (pictures, variants, C, h, w), unscaled: a latent is (mean + std · n) ·
    scaling. A finished file of the same pictures and crop is kept. Passes are filled across styles and all have the
    same number of rows, convolved apart on a GPU, so a style's moments do not depend on its company. Raises ConfigError
    with every fault of the job, and data.challenge's DataError for a picture that cannot be read.
    """
    if faults := crop_faults(job, models.vae_factor):
        raise ConfigError(faults, what="encoding job")
    total = sum(map(len, job.pictures.values())) * job.crop.variants
    with (
        progress.task("encoding", total) as task,
        beside(1, "moments", FILES_AHEAD) as files,
        _readers() as pool,
    ):
        todo = dict(job.pictures)
        for style, pictures in job.pictures.items():
            if record_of(out / style / MOMENTS) == record(job, pictures):
                del todo[style]
                task.advance(len(pictures) * job.crop.variants)
                on_style(style, out / style)
        if todo:
            size = _rows(models, job.crop.resolution)
            views = Views(pool, job.crop, todo, 2 * size)
            encoder = _Encoder(models, views, task, _Files(job, out, files, on_style))
            with _apart(models, size):
                in_batches(views.even(size), size, encoder.launch, "encoding")
                encoder.finish()


def _rows(models: Models, resolution: int) -> int:
    """Of all passes: a power of two, so that a little more or less free memory leaves the shapes and hence the bits."""
    fit = pictures_that_fit(models.device, resolution, GIB_AT_512, MOST)
    return 1 << (fit.bit_length() - 1)


def _apart(models: Models, rows: int) -> AbstractContextManager[None]:
    """Convolutions take a GPU's pictures one by one: cuDNN's sums depend on a picture's place in the batch."""
    return one_by_one(models.vae, rows) if models.device.type == "cuda" else nullcontext()


@contextmanager
def _readers() -> Iterator[ThreadPoolExecutor]:
    """Threads that decode and cut; what they have not begun when an error ends the job is dropped."""
    pool = ThreadPoolExecutor(threads(READERS), thread_name_prefix="view")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class View(NamedTuple):
    """Whose view it is: the style, the picture, and which of its variants."""

    style: str
    picture: Path
    variant: int


class Views:
    """The views of all pictures, style by style and picture by picture, made in threads before they are taken.

    At most `ahead` of them wait: all at once would be 3 MB each at 512 px, and a picture may have hundreds.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, crop: CropSpec, pictures: Mapping[str, Sequence[str]], ahead: int
    ):
        self.names = [
            View(style, Path(picture), variant)
            for style, some in pictures.items()
            for picture in some
            for variant in range(crop.variants)
        ]
        self._pool, self._crop, self._ahead = pool, crop, ahead
        self._whole: Future[Image.Image] | None = None  # of the picture whose variants are begun
        self._made: dict[int, Future[Tensor]] = {}
        self._begun = 0
        self._begin(ahead)

    def even(self, size: int) -> list[int]:
        """The places of all views, the last one again and again until passes of `size` are full."""
        last = len(self.names) - 1
        return [*range(last + 1), *[last] * (-(last + 1) % size)]

    def take(self, places: Sequence[int]) -> Tensor:
        """Some of the views, (n, 3, H, W) in [-1, 1]; they may be taken again until they are `used`."""
        self._begin(places[-1] + 1 + self._ahead)
        return torch.stack([self._made[place].result() for place in places])

    def used(self, places: Sequence[int]) -> None:
        """Let go of some views; the last of all is kept, which fills passes."""
        for place in places:
            if place < len(self.names) - 1:
                del self._made[place]

    def _begin(self, end: int) -> None:
        for place in range(self._begun, min(end, len(self.names))):
            style, picture, variant = self.names[place]
            if self._whole is None or variant == 0:
                self._whole = self._pool.submit(resized, picture, self._crop)
            name = (self._crop.seed, style, picture.stem, variant)
            self._made[place] = self._pool.submit(_view, self._whole, self._crop, name)
            self._begun = place + 1


def _view(whole: Future[Image.Image], crop: CropSpec, name: tuple[draws.Name, ...]) -> Tensor:
    # Its picture was given to the threads before it and waits for nothing, so this wait ends.
    return to_pixels(view(whole.result(), crop, *name))


class _Pass(NamedTuple):
    """A pass under way: mean and std, float32 (n, C, h, w) in host memory, are complete after `event`."""

    places: Sequence[int]
    mean: Tensor
    std: Tensor
    event: torch.cuda.Event | None


@dataclass
class _Encoder:
    """Encodes views pass by pass; the results of one are taken once the next is under way."""

    models: Models
    views: Views
    task: Task
    files: _Files
    _under_way: _Pass | None = None
    _taken: int = 0

    def launch(self, places: Sequence[int]) -> None:
        """Begin with a pass, then take what the one before it has given."""
        moments = self.models.moments(send(self.views.take(places), self.models.device))
        mean, std = (fetch(x.float().contiguous()) for x in moments)
        launched = _Pass(places, mean, std, reached(self.models.device))
        self.views.used(places)
        self.finish()
        self._under_way = launched

    def finish(self) -> None:
        """Take what the last pass has given."""
        if self._under_way is None:
            return
        places, mean, std, event = self._under_way
        self._under_way = None
        if event is not None:
            event.synchronize()
        # Filling repeats the last view, so it is never the next one.
        new = [row for row, place in enumerate(places) if place == self._taken + row]
        for row in new:
            self.files.take(self.views.names[places[row]].style, mean[row], std[row])
        self._taken += len(new)
        self.task.advance(len(new))


@dataclass
class _Files:
    """Gathers the moments of each style's views, in their order, and has its file written when it has all."""

    job: EncodeJob
    out: Path
    others: Beside
    on_style: OnStyle
    _rows: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=lambda: defaultdict(list))

    def take(self, style: str, mean: Tensor, std: Tensor) -> None:
        """The moments (C, h, w) of the style's next view."""
        self._rows[style].append((mean, std))
        if len(self._rows[style]) == len(self.job.pictures[style]) * self.job.crop.variants:
            self.others.do(partial(self._write, style, self._rows.pop(style)))

    def _write(self, style: str, rows: Sequence[tuple[Tensor, Tensor]]) -> None:
        pictures = self.job.pictures[style]
        moments = {}
        for name, some in zip(("mean", "std"), zip(*rows, strict=True), strict=True):
            every = torch.stack(some)
            moments[name] = every.reshape(len(pictures), self.job.crop.variants, *every.shape[1:])
        header = {HEADER: json.dumps(record(self.job, pictures), sort_keys=True)}
        file = self.out / style / MOMENTS
        write_bytes(file, safetensors.torch.save(moments, metadata=header))
        self.on_style(style, file.parent)
