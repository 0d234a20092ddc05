"""Pictures as StyleID takes them, read by threads while the device is busy with others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from jdx.backends.torch.pictures import to_pixels
from jdx.backends.views import centred_square
from jdx.beside import threads

READERS = 8
"""Threads that decode and resize: 10 to 50 ms a picture, by its size."""


def square(picture: Path, resolution: int) -> Tensor:
    """Pixels (3, resolution, resolution) in [-1, 1]: the largest centred square, resized by Lanczos.

    As in the authors' program.
    """
    return to_pixels(centred_square(picture, resolution))


class Squares:
    """Reads pictures as squares of one resolution, ahead of their use where `begin` says so."""

    def __init__(self, resolution: int):
        self._resolution = resolution
        self._pool = ThreadPoolExecutor(threads(READERS), thread_name_prefix="square")
        self._begun: dict[Path, Future[Tensor]] = {}

    def begin(self, pictures: Iterable[Path]) -> None:
        """Start with pictures that will be taken; each waits in memory until then, 3 MB at 512 px."""
        for picture in pictures:
            if picture not in self._begun:
                self._begun[picture] = self._pool.submit(square, picture, self._resolution)

    def take(self, pictures: Sequence[Path]) -> Tensor:
        """Pixels (n, 3, resolution, resolution); they are kept no longer."""
        self.begin(pictures)
        taken = torch.stack([self._begun[picture].result() for picture in pictures])
        for picture in set(pictures):
            del self._begun[picture]
        return taken

    def close(self) -> None:
        """End the threads; what they have not begun is dropped."""
        self._pool.shutdown(cancel_futures=True)
