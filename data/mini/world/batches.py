"""Many pictures on many cores, each from a key of its own, so that the number of workers changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import cv2
import numpy as np
from numpy.typing import NDArray

from data.mini.world.captions import caption, describe
from data.mini.world.compose import paint
from data.mini.world.objects import OBJECTS
from data.mini.world.random_styles import random_style
from data.mini.world.style import Style
from data.mini.world.styles import NAMED_STYLES, PLAIN

STYLE_NAMES: tuple[str, ...] = ("plain", *NAMED_STYLES, "composed")
"""What the numbers in `Batch.styles` mean."""

MIX = (0.34, 0.21, 0.45)
"""Shares of plain, named and composed styles."""

_CHUNK = 256


@dataclass(frozen=True)
class Batch:
    """n pictures: images (n, size, size, 3) uint8, captions, and indices into OBJECTS and STYLE_NAMES."""

    images: NDArray[np.uint8]
    captions: list[str]
    objects: NDArray[np.int64]
    styles: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class _Job:
    start: int
    stop: int
    seed: int
    mix: tuple[float, float, float]
    size: int


def _style(rng: np.random.Generator, mix: tuple[float, float, float]) -> tuple[int, Style, str | None]:
    kind = int(rng.choice(3, p=np.array(mix) / sum(mix)))
    if kind == 0:
        return 0, PLAIN, None
    if kind == 1:
        index = int(rng.integers(len(NAMED_STYLES)))
        name = STYLE_NAMES[index + 1]
        return index + 1, NAMED_STYLES[name], name
    style = random_style(rng)
    return len(STYLE_NAMES) - 1, style, describe(style, rng)


def _one(index: int, job: _Job) -> tuple[NDArray[np.uint8], str, int, int]:
    """Picture number `index`: objects go round, everything else comes from (seed, index)."""
    rng = np.random.default_rng([job.seed, index])
    which, obj = index % len(OBJECTS), OBJECTS[index % len(OBJECTS)]
    style_id, style, name = _style(rng, job.mix)
    return paint(obj, style, rng, job.size), caption(obj, name), which, style_id


def _render(job: _Job) -> Batch:
    images, captions, objects, styles = zip(*(_one(k, job) for k in range(job.start, job.stop)), strict=True)
    return Batch(np.stack(images), list(captions), np.array(objects), np.array(styles))


def _jobs(
    n: int, seed: int, mix: tuple[float, float, float], size: int, start: int, chunk: int
) -> list[_Job]:
    stops = range(start, start + n, chunk)
    return [_Job(k, min(k + chunk, start + n), seed, mix, size) for k in stops]


def _run(jobs: list[_Job], workers: int | None) -> Iterator[Batch]:
    count = min(len(jobs), workers if workers is not None else (os.cpu_count() or 1))
    if count <= 1:
        yield from map(_render, jobs)
        return
    # Not fork: the trainer that calls this may hold a CUDA context. One OpenCV thread per worker.
    with ProcessPoolExecutor(
        count, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        yield from pool.map(_render, jobs)


def batches(
    n: int,
    seed: int,
    workers: int | None = None,
    *,
    batch: int = _CHUNK,
    mix: tuple[float, float, float] = MIX,
    size: int = 128,
    start: int = 0,
) -> Iterator[Batch]:
    """Pictures `start` .. `start + n` of the endless sequence named by `seed`, in order, `batch` at a time.

    `workers` None means one per core; 0 or 1 renders in this process. The pictures depend on neither
    `workers` nor `batch`.
    """
    yield from _run(_jobs(n, seed, mix, size, start, batch), workers)


def render_many(
    n: int,
    seed: int,
    workers: int | None = None,
    *,
    mix: tuple[float, float, float] = MIX,
    size: int = 128,
    start: int = 0,
) -> Batch:
    """All of `batches` in one."""
    images = np.empty((n, size, size, 3), np.uint8)
    captions: list[str] = []
    objects, styles = np.empty(n, np.int64), np.empty(n, np.int64)
    for part in batches(n, seed, workers, mix=mix, size=size, start=start):
        here = slice(len(captions), len(captions) + len(part))
        images[here], objects[here], styles[here] = part.images, part.objects, part.styles
        captions.extend(part.captions)
    return Batch(images, captions, objects, styles)
