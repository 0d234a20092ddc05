"""Pictures between PIL and the networks' scale, and PNG files written off the critical path."""

from __future__ import annotations

import io
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jdx.beside import threads
from jdx.files import write_bytes

WRITERS = 8
"""Threads that write. A PNG of 512 px costs about 55 ms of one core (zlib lets go of the interpreter)."""


def to_pixels(picture: Image.Image) -> Tensor:
    """An RGB picture as float32 (3, H, W) in [-1, 1], contiguous: level 0 is -1, level 255 is 1."""
    # Colour by colour: interleaved, a batch would take thirty times as long to stack.
    colours = torch.from_numpy(np.stack(cv2.split(np.asarray(picture.convert("RGB"))))).float()
    return colours / 255.0 * 2.0 - 1.0


def to_levels(pixels: Tensor) -> Tensor:
    """Pixels (n, 3, H, W) in [-1, 1] as uint8 (n, H, W, 3) where they are; clamped, rounded as by diffusers."""
    unit = (pixels.float() / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def write_png(levels: Tensor, file: Path) -> None:
    """One uint8 (H, W, 3) as an RGB PNG; the file is there whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(levels.contiguous().numpy()).save(buffer, format="PNG")
    write_bytes(file, buffer.getvalue())


class PictureWriter:
    """Writes PNGs in threads while the device goes on; leaving the block waits and raises what failed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(threads(WRITERS), thread_name_prefix="png")
        self._written: list[Future[None]] = []

    def submit(self, levels: Tensor, file: Path) -> Future[None]:
        """Start writing one uint8 (H, W, 3) in host memory; the future is done when the file is there."""
        started = self._pool.submit(write_png, levels, file)
        self._written.append(started)
        return started

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:  # an error of the block itself must not be hidden behind one of a file
            for future in self._written:
                future.result()
