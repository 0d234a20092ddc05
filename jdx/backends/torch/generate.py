"""All pictures of a job, style by style: merge its adapter, draw its prompts in batches, write its PNGs."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from data.challenge import load_picture
from jdx.backends.base import GenerateJob, InitSpec, OnStyle, PictureSpec, StyleDrawJob
from jdx.backends.torch.adapter_reader import load_adapter
from jdx.backends.torch.devices import in_batches, pictures_that_fit
from jdx.backends.torch.merge import merge
from jdx.backends.torch.models import Models
from jdx.backends.torch.pictures import PictureWriter, to_pixels
from jdx.backends.torch.sampling import from_noise, from_picture, sample, start_run
from jdx.errors import BackendError, ConfigError, Fault
from jdx.progress import Progress, Task

GIB_AT_512 = 0.5
"""Working memory of one guided picture, 512 px, bfloat16: diffusers takes 3 / 5 / 15 GiB for 1 / 5 / 25."""
DECODED = 8
"""Pictures the VAE decodes in one pass; its widest activations would otherwise rule the memory."""


def generate(job: GenerateJob, models: Models, out: Path, progress: Progress, on_style: OnStyle) -> None:
    """Write out/STYLE/FILE for every picture and hand over each style's folder once all its files are there.

    Files that are there already are kept, so an interrupted job goes on. Neither the batch size nor the other
    styles change a picture beyond rounding. Raises ConfigError with every fault of the job before drawing.
    """
    if faults := job_faults(job, models):
        raise ConfigError(faults, what="drawing job")
    total = sum(len(style.pictures) for style in job.styles)
    with progress.task("drawing", total) as task, PictureWriter() as writer:
        drawer = Drawer(job, models, writer, task)
        finishing: deque[tuple[str, Path, list[Future[None]]]] = deque()
        try:
            for style in job.styles:
                finishing.append((style.style, out / style.style, drawer.draw(style, out / style.style)))
                if len(finishing) > 1:  # this style's files are still being written; the one before is done
                    _finish(*finishing.popleft(), on_style)
        finally:
            while finishing:
                _finish(*finishing.popleft(), on_style)


def job_faults(job: GenerateJob, models: Models) -> list[Fault]:
    """What cannot be drawn: bad sizes, names that overwrite each other, missing adapters or starts."""
    faults = []
    if job.resolution % models.vae_factor or job.resolution <= 0:
        allowed = f"a positive multiple of {models.vae_factor}, the VAE's factor"
        faults.append(Fault("resolution", str(job.resolution), allowed))
    if job.sampler.guidance_scale < 0:
        faults.append(Fault("sampler.guidance_scale", str(job.sampler.guidance_scale), "0 or more; 1 is off"))
    for name, count in Counter(style.style for style in job.styles).items():
        if count > 1:
            faults.append(Fault(f"style {name}", f"{count} times", "each style once"))
    for style in job.styles:
        faults += _style_faults(style)
    return faults


def _style_faults(style: StyleDrawJob) -> list[Fault]:
    files = Counter(picture.file.casefold() for picture in style.pictures)
    found = [
        Fault(f"style {style.style}", file, f"drawn {count} times: each file name once, whatever its case")
        for file, count in files.items()
        if count > 1
    ]
    if style.adapter is not None and not style.adapter.exists():
        found.append(Fault(f"style {style.style}: adapter", str(style.adapter), "is not there"))
    if style.init is not None and not style.init.picture.is_file():
        found.append(Fault(f"style {style.style}: init.picture", str(style.init.picture), "is not a file"))
    return found


def _finish(style: str, folder: Path, files: list[Future[None]], on_style: OnStyle) -> None:
    for file in files:
        file.result()
    on_style(style, folder)


@dataclass
class Drawer:
    """Draws one style after the other with one model."""

    job: GenerateJob
    models: Models
    writer: PictureWriter
    task: Task

    def draw(self, style: StyleDrawJob, folder: Path) -> list[Future[None]]:
        """Start writing the missing pictures of a style; the folder is complete when all futures are done."""
        folder.mkdir(parents=True, exist_ok=True)
        todo = [picture for picture in style.pictures if not (folder / picture.file).exists()]
        self.task.advance(len(style.pictures) - len(todo))
        if not todo:
            return []
        with torch.no_grad(), self._adapted(style):
            text = self._embeddings(todo)
            moments = self._start_moments(style.init) if style.init is not None else None

            def batch(pictures: Sequence[PictureSpec]) -> list[Future[None]]:
                return self._batch(pictures, folder, text, style.init, moments)

            started = in_batches(todo, self._batch_size(len(todo)), batch, f"drawing style {style.style}")
        return [future for futures in started for future in futures]

    def _adapted(self, style: StyleDrawJob) -> AbstractContextManager[None]:
        if style.adapter is None:
            return nullcontext()
        return merge(self.models, load_adapter(style.adapter, self.models), style.lora_scale)

    def _batch_size(self, count: int) -> int:
        """Even batches: 25 pictures where 16 fit are drawn as 13 and 12."""
        wide = self.models.dtype.itemsize / 2
        guided = 1.0 if self.job.sampler.guidance_scale != 1.0 else 0.5
        most = self.job.batch_size or pictures_that_fit(
            self.models.device, self.job.resolution, GIB_AT_512 * wide * guided
        )
        return -(-count // -(-count // most))

    def _embeddings(self, pictures: Sequence[PictureSpec]) -> dict[str, Tensor]:
        """Text embeddings (tokens, width) of all distinct prompts, through the adapted text encoder."""
        both = [text for picture in pictures for text in (picture.prompt, picture.negative_prompt)]
        prompts = list(dict.fromkeys(both))
        embedded = in_batches(prompts, 32, self.models.embed, "text encoder")
        return dict(zip(prompts, torch.cat(embedded), strict=True))

    def _start_moments(self, init: InitSpec) -> tuple[Tensor, Tensor]:
        """Posterior of the start picture, resized to the exact square (bicubic) if it has another size."""
        size = (self.job.resolution, self.job.resolution)
        picture = load_picture(init.picture)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        return self.models.moments(to_pixels(picture)[None])

    def _batch(
        self,
        pictures: Sequence[PictureSpec],
        folder: Path,
        text: dict[str, Tensor],
        init: InitSpec | None,
        moments: tuple[Tensor, Tensor] | None,
    ) -> list[Future[None]]:
        sampler = self.job.sampler
        run = start_run(sampler, self.models.scheduler_config, init.strength if init else None)
        seeds = [picture.seed for picture in pictures]
        if moments is None:
            latents = from_noise(self.models, run, seeds, self.job.resolution)
        else:
            latents = from_picture(self.models, run, seeds, moments)
        prompts = torch.stack([text[picture.prompt] for picture in pictures])
        negatives = torch.stack([text[picture.negative_prompt] for picture in pictures])
        latents = sample(self.models, run, latents, prompts, negatives, sampler.guidance_scale)
        if not bool(latents.isfinite().all()):
            raise BackendError(self._diverged(pictures, latents))
        pixels = torch.cat([self.models.decode(part) for part in torch.split(latents, DECODED)])
        futures = self.writer.write(pixels, [folder / picture.file for picture in pictures])
        self.task.advance(len(pictures))
        return futures

    def _diverged(self, pictures: Sequence[PictureSpec], latents: Tensor) -> str:
        fine = latents.isfinite().flatten(1).all(1).tolist()
        files = ", ".join(picture.file for picture, good in zip(pictures, fine, strict=True) if not good)
        return f"latents left the finite numbers in {self.models.dtype}: {files}; try backend.dtype=float32"
