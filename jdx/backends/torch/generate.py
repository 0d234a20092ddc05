"""All pictures of a job, style by style: merge its adapter, draw its prompts in batches, write its PNGs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from data.challenge import load_picture
from jdx.backends.base import GenerateJob, InitSpec, OnStyle, PictureSpec, SamplerSpec, StyleDrawJob
from jdx.backends.draw_checks import drawing_faults
from jdx.backends.torch.adapter_reader import load_adapter
from jdx.backends.torch.adapters import Adapter
from jdx.backends.torch.blend import Blending, blend_faults, branch_weights
from jdx.backends.torch.develop import Developer, Folder, Handover, Picture
from jdx.backends.torch.devices import in_batches, pictures_that_fit
from jdx.backends.torch.enhancer import add
from jdx.backends.torch.inference import Denoiser, denoiser, even_rows
from jdx.backends.torch.merge import unet_weights, worn
from jdx.backends.torch.models import Models
from jdx.backends.torch.pictures import PictureWriter, to_pixels
from jdx.backends.torch.sampling import Run, from_noise, from_picture, sample, start_run
from jdx.errors import ConfigError, Fault
from jdx.methods.blend import FINE
from jdx.methods.prompts import interpolate
from jdx.progress import Progress

GIB_AT_512 = 0.5
"""Working memory of one guided picture, 512 px, bfloat16: diffusers takes 3 / 5 / 15 GiB for 1 / 5 / 25."""
MOST = 25
"""Pictures in a pass: a contest style's prompts. Larger passes are no faster, and class pictures take the same ones."""
SHARED_ON = "cuda"
"""Devices on which styles of equal weights share batches."""
DECODED_AT_512 = 8
"""Pictures of 512 px the VAE decodes in one pass; its widest activations would otherwise rule the memory."""


def generate(job: GenerateJob, models: Models, out: Path, progress: Progress, on_style: OnStyle) -> None:
    """Write out/STYLE/FILE for every picture and hand over each style's folder once all its files are there.

    Files that are there already are kept, so an interrupted job goes on. Neither the batch size nor the other
    styles change a picture beyond rounding. Raises ConfigError with every fault of the job before drawing.
    """
    if faults := job_faults(job, models):
        raise ConfigError(faults, what="drawing job")
    folders = [Folder.of(one.style, out / one.style, (p.file for p in one.pictures)) for one in job.styles]
    total = sum(len(style.pictures) for style in job.styles)
    groups = _groups(job.styles, folders, models.device)
    sizes = [sum(len(folder.missing) for _, folder in group) for group in groups]
    with progress.task("drawing", total) as task, PictureWriter() as writer, ExitStack() as ending:
        task.advance(total - sum(sizes))
        developer = Developer(models, writer, decoded_at(job.resolution), task.advance)
        drawer = Drawer(job, models, developer, _passes(job, models, sizes))
        hand_over = Handover(folders, on_style)
        # Upwards, and each whatever happened to the others: what is complete is handed over.
        ending.callback(hand_over, wait=True)
        ending.callback(developer.finish)
        ending.callback(drawer.denoise.forget)
        for group in groups:
            drawer.draw(group, hand_over)


Style = tuple[StyleDrawJob, Folder]
Todo = tuple[Picture, PictureSpec]


def _groups(
    styles: Sequence[StyleDrawJob], folders: Sequence[Folder], device: torch.device
) -> list[list[Style]]:
    """Neighbours that are drawn with the same weights and from the same start: a GPU draws them in common batches.

    Class pictures are eight a word, and a card wants two dozen. A CPU gains nothing by it.
    """

    def drawn_with(one: Style) -> object:
        return replace(one[0], style="", pictures=()) if device.type == SHARED_ON else one[0].style

    todo = [(style, folder) for style, folder in zip(styles, folders, strict=True) if folder.missing]
    return [list(group) for _, group in groupby(todo, drawn_with)]


def _passes(job: GenerateJob, models: Models, sizes: Sequence[int]) -> Denoiser:
    """The UNet's passes for groups of these sizes. Blending changes layers in mid-drawing: not for fixed passes."""
    blended = any(style.blend for style in job.styles)
    rows = rows_of(job.sampler) * even_rows(sizes, most_at_once(job, models))
    if blended:
        return denoiser(models, "off", rows)
    return denoiser(models, job.compile, rows, graphs=job.graphs)


def most_at_once(job: GenerateJob, models: Models, branches: int = 1) -> int:
    """Pictures that one pass takes. branches: 2 where two are drawn for each."""
    wide = models.dtype.itemsize / 2
    each = GIB_AT_512 * wide * rows_of(job.sampler) / 2 * branches
    return job.batch_size or pictures_that_fit(models.device, job.resolution, each, MOST)


def decoded_at(resolution: int) -> int:
    """Pictures of this size, in pixels, that the VAE decodes in one pass."""
    return max(1, DECODED_AT_512 * 512**2 // max(512, resolution) ** 2)


def rows_of(sampler: SamplerSpec) -> int:
    """Rows of a picture in one pass: two with classifier-free guidance."""
    return 1 if sampler.guidance_scale == 1.0 else 2


def job_faults(job: GenerateJob, models: Models) -> list[Fault]:
    """What cannot be drawn with this model."""
    faults = drawing_faults(job, models.vae_factor)
    for style in job.styles:
        if style.blend is not None:
            layers = {"c2f": style.blend.c2f_layers, "f2c": style.blend.f2c_layers}
            faults += blend_faults(models.unet, layers)
    return list(dict.fromkeys(faults))


@dataclass(frozen=True)
class Prepared:
    """What all batches of a group share: text embeddings by prompt, and the start picture's posterior.

    style: any of the group's, they differ in nothing but names and pictures.

    biases: what an enhancer adds to the prompts' and to the negatives' embeddings, (tokens, width) or nothing.
    """

    style: StyleDrawJob
    text: dict[str, Tensor]
    coarse_text: dict[str, Tensor]
    moments: tuple[Tensor, Tensor] | None
    biases: tuple[Tensor | None, Tensor | None] = (None, None)


@dataclass
class Drawer:
    """Draws one group of styles after the other with one model."""

    job: GenerateJob
    models: Models
    developer: Developer
    denoise: Denoiser

    def draw(self, group: Sequence[Style], launched: Callable[[], None] = lambda: None) -> None:
        """Draw the missing pictures of styles that share their weights; launched(): after each batch.

        The last batch is still under way in the developer when this returns.
        """
        style = group[0][0]
        todo: list[Todo] = [
            (folder.picture(spec.file), spec)
            for one, folder in group
            for spec in one.pictures
            if spec.file in folder.missing
        ]
        with torch.no_grad(), ExitStack() as adapted:
            pictures = [spec for _, spec in todo]
            coarse_text = self._coarse_embeddings(style, pictures)
            adapter = load_adapter(style.adapter, self.models) if style.adapter is not None else Adapter()
            adapted.enter_context(self._adapted(style, adapter))
            text = self._embeddings([word for one in pictures for word in _texts(one)])
            moments = self._start_moments(style.init) if style.init is not None else None
            ready = Prepared(style, text, coarse_text, moments, self._biases(style, adapter))

            def batch(some: Sequence[Todo]) -> None:
                try:
                    self._batch(some, ready)
                except torch.cuda.OutOfMemoryError:
                    self.denoise.forget()  # so that the next try has more
                    raise
                launched()

            size = self._batch_size(len(todo), blended=style.blend is not None)
            in_batches(todo, size, batch, f"drawing style {style.style}")

    @contextmanager
    def _adapted(self, style: StyleDrawJob, adapter: Adapter) -> Iterator[None]:
        """The style's adapter in the networks; with blending the coarse branch's rows have it at their own scale."""
        blend = style.blend
        differ = blend is not None and blend.lora_scale != style.lora_scale
        coarse = unet_weights(self.models, adapter, blend.lora_scale) if blend and differ else {}
        with (
            worn(self.models, adapter, style.lora_scale),
            branch_weights(self.models.unet, coarse, self._halves),
        ):
            yield

    @property
    def _halves(self) -> int:
        return rows_of(self.job.sampler)

    def _batch_size(self, count: int, *, blended: bool = False) -> int:
        """Even batches: 25 pictures where 16 fit are drawn as 13 and 12. Compiled passes have one size for all."""
        otherwise = self._halves * most_at_once(self.job, self.models, 2 if blended else 1)
        most = self.denoise.most(otherwise) // self._halves
        return -(-count // -(-count // most))

    def _embeddings(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Text embeddings (tokens, width) of all distinct prompts, through the adapted text encoder."""
        prompts = list(dict.fromkeys(texts))
        embedded = in_batches(prompts, 32, self.models.embed, "text encoder")
        return dict(zip(prompts, torch.cat(embedded), strict=True))

    def _coarse_embeddings(self, style: StyleDrawJob, pictures: Sequence[PictureSpec]) -> dict[str, Tensor]:
        """The coarse branch's, through its own adapter's text encoder; nothing without blending."""
        if style.blend is None:
            return {}
        texts = [word for one in pictures for word in (one.coarse_prompt, one.coarse_negative)]
        if style.blend.adapter is None:
            return self._embeddings(texts)
        adapter = load_adapter(style.blend.adapter, self.models)
        if adapter.unet:
            allowed = (
                "the coarse branch draws with the style's own UNet adapter: train the text encoder alone"
            )
            raise ConfigError([Fault("blend.adapter", str(style.blend.adapter), allowed)], "drawing job")
        with worn(self.models, adapter):
            return self._embeddings(texts)

    def _biases(self, style: StyleDrawJob, adapter: Adapter) -> tuple[Tensor | None, Tensor | None]:
        """`Prepared.biases`; StyleBlend's coarse branch, which has prompts of its own, gets none."""
        if adapter.enhancer is None:
            return None, None
        bias = adapter.enhancer.bias().to(self.models.device)
        return bias, bias if style.enhanced == "both" else None

    def _start_moments(self, init: InitSpec) -> tuple[Tensor, Tensor]:
        """Posterior of the start picture, resized to the exact square (bicubic) if it has another size."""
        size = (self.job.resolution, self.job.resolution)
        picture = load_picture(init.picture)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        return self.models.moments(to_pixels(picture)[None])

    def _batch(self, todo: Sequence[Todo], ready: Prepared) -> None:
        sampler, init = self.job.sampler, ready.style.init
        pictures = [spec for _, spec in todo]
        run = start_run(sampler, self.models.scheduler_config, init.strength if init else None)
        seeds = [picture.seed for picture in pictures]
        if ready.moments is None:
            latents = from_noise(self.models, run, seeds, self.job.resolution)
        else:
            latents = from_picture(self.models, run, seeds, ready.moments, init is None or init.sampled)
        self.developer.develop(self._sample(run, latents, pictures, ready), [picture for picture, _ in todo])

    def _sample(self, run: Run, latents: Tensor, pictures: Sequence[PictureSpec], ready: Prepared) -> Tensor:
        """The pictures' clean latents; both branches start from the same ones, and the fine one's are kept."""
        text, negative = _contexts(pictures, ready)
        scale, blend = self.job.sampler.guidance_scale, ready.style.blend
        if blend is None:
            return sample(self.denoise, run, latents, text, negative, scale)
        coarse = torch.stack([ready.coarse_text[picture.coarse_prompt] for picture in pictures])
        coarse_negative = torch.stack([ready.coarse_text[picture.coarse_negative] for picture in pictures])
        both, both_negative = torch.cat([coarse, text]), torch.cat([coarse_negative, negative])
        around = Blending(self.models.unet, blend, len(run.timesteps), self._halves)
        drawn = sample(self.denoise, run, torch.cat([latents] * 2), both, both_negative, scale, around)
        return drawn.chunk(2)[FINE]


def _texts(picture: PictureSpec) -> tuple[str, ...]:
    """Every text whose embeddings a picture needs."""
    own = (picture.prompt, picture.negative_prompt)
    return own if picture.plain is None else (*own, picture.plain.prompt, picture.plain.negative_prompt)


def _contexts(pictures: Sequence[PictureSpec], ready: Prepared) -> tuple[Tensor, Tensor]:
    """Embeddings (n, tokens, width) of the prompts and of the negatives, mixed with the plain ones where asked for.

    An enhancer speaks for the style, so plain prompts do not get its bias.
    """
    prompts, negatives, text = [], [], ready.text
    for picture in pictures:
        prompt, negative = (
            text[words] if bias is None else add(text[words], bias)
            for words, bias in zip((picture.prompt, picture.negative_prompt), ready.biases, strict=True)
        )
        plain = picture.plain
        if plain is not None:
            prompt = interpolate(prompt, text[plain.prompt], plain.share)
            negative = interpolate(negative, text[plain.negative_prompt], plain.share)
        prompts.append(prompt)
        negatives.append(negative)
    return torch.stack(prompts), torch.stack(negatives)
