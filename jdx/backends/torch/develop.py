"""From latents to PNG files while the device goes on: nobody waits for a batch before the next one is under way."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from jdx.backends.base import OnStyle
from jdx.backends.torch.models import Models
from jdx.backends.torch.pictures import PictureWriter, to_levels
from jdx.errors import BackendError

log = logging.getLogger(__name__)

BLACK = -1.0
"""A picture without any lighter pixel: what NaN becomes in 8 bits, and what nobody asks for."""


@dataclass(eq=False)
class Folder:
    """A style's folder of pictures: the names that are still missing, and the files that are being written."""

    style: str
    path: Path
    missing: tuple[str, ...]
    files: list[Future[None]] = field(default_factory=list)

    @classmethod
    def of(cls, style: str, path: Path, names: Iterable[str]) -> Folder:
        """A style's folder with what an interrupted job left in it; it is made where it is not there."""
        path.mkdir(parents=True, exist_ok=True)
        return cls(style, path, tuple(name for name in names if not (path / name).exists()))

    def picture(self, name: str) -> Picture:
        """One of the missing ones."""
        return Picture(self, name)

    def complete(self, *, wait: bool) -> bool:
        """Whether all files are there; wait: those that are being written are waited for. Raises what failed."""
        if len(self.files) < len(self.missing) or not (wait or all(file.done() for file in self.files)):
            return False
        for file in self.files:
            file.result()
        return True


@dataclass(frozen=True)
class Picture:
    """A picture to be written."""

    folder: Folder
    name: str

    @property
    def file(self) -> Path:
        """Where it will be."""
        return self.folder.path / self.name


class Handover:
    """Gives away folders one by one, in their order, each once it is complete."""

    def __init__(self, folders: Iterable[Folder], on_style: OnStyle):
        self._open, self._on_style = deque(folders), on_style

    def __call__(self, *, wait: bool = False) -> None:
        """Give away what is complete; wait: also wait for files that are being written."""
        while self._open and self._open[0].complete(wait=wait):
            folder = self._open.popleft()
            self._on_style(folder.style, folder.path)


@dataclass(frozen=True)
class _Batch:
    """A batch under way. levels (n, H, W, 3) and fine (2, n), latents and pixels finite, are complete after `event`."""

    pictures: Sequence[Picture]
    latents: Tensor
    levels: Tensor
    fine: Tensor
    event: torch.cuda.Event | None


class Developer:
    """Decodes latents in parts of `most` pictures, and writes the batch before once the next one is launched."""

    def __init__(self, models: Models, writer: PictureWriter, most: int, done: Callable[[int], None]):
        """done(n): n pictures have left the device."""
        self.models, self.writer, self.most, self.done = models, writer, most, done
        self._under_way: deque[_Batch] = deque()

    @torch.no_grad()
    def develop(self, latents: Tensor, pictures: Sequence[Picture]) -> None:
        """Launch the decoding of clean latents (n, C, h, w), then start writing the batch that was launched before.

        Raises: BackendError when latents of the batch before are not finite.
        """
        parts = [self._decoded(some) for some in torch.split(latents, self.most)]
        levels, pixels_fine = (torch.cat(some) for some in zip(*parts, strict=True))
        fine = torch.stack([latents.isfinite().flatten(1).all(1), pixels_fine])
        levels, fine = fetch(levels), fetch(fine)
        batch = _Batch(pictures, latents, levels, fine, reached(latents.device))
        self.finish()
        self._under_way.append(batch)

    def _decoded(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.models.decode_fast(latents)
        flat = pixels.flatten(1)
        return to_levels(pixels), flat.isfinite().all(1) & (flat.amax(1) > BLACK)

    @torch.no_grad()
    def finish(self) -> None:
        """Start writing everything that was launched. Raises as `develop`."""
        while self._under_way:
            self._collect(self._under_way[0])
            self._under_way.popleft()

    def _collect(self, batch: _Batch) -> None:
        if batch.event is not None:
            batch.event.synchronize()
        latents_fine, pixels_fine = batch.fine.tolist()
        if bad := [str(one.file) for one, fine in zip(batch.pictures, latents_fine, strict=True) if not fine]:
            left = f"latents left the finite numbers in {self.models.dtype}"
            raise BackendError(f"{left}: {', '.join(bad)}; try backend.dtype=float32")
        for i in (i for i, fine in enumerate(pixels_fine) if not fine):
            batch.levels[i] = self._exactly(batch.latents[i : i + 1], batch.pictures[i].file)
        for levels, one in zip(batch.levels, batch.pictures, strict=True):
            one.folder.files.append(self.writer.submit(levels, one.file))
        self.done(len(batch.pictures))

    def _exactly(self, latents: Tensor, file: Path) -> Tensor:
        """One picture (H, W, 3) again in the VAE's own precision."""
        if self.models.decodes_fast:
            log.warning("%s: the VAE gave nothing visible in bfloat16; decoding in float32", file.name)
        pixels = self.models.decode_exactly(latents)
        if not bool(pixels.isfinite().all()):
            raise BackendError(f"not written, the VAE left the finite numbers: {file}")
        return to_levels(pixels)[0].cpu()


def fetch(x: Tensor) -> Tensor:
    """A copy in host memory, complete when the device has come so far."""
    if x.device.type != "cuda":
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


def reached(device: torch.device) -> torch.cuda.Event | None:
    """What happens once the device has done all that it was given; None where everything is done at once."""
    if device.type != "cuda":
        return None
    event: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    # Without a stream it would be one of the process's current card, which need not be this one.
    event.record(torch.cuda.current_stream(device))
    return event
