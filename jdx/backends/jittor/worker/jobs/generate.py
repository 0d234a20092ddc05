"""All pictures of a job, style by style, in Jittor: wear its adapter, draw its prompts in batches, write its PNGs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
from PIL import Image

from data.pictures import load_picture
from jdx.backends.base import GenerateJob, InitSpec, PictureSpec, StyleDrawJob
from jdx.backends.draw_checks import drawing_faults
from jdx.backends.jittor.worker.jobs.drawing import Noise, decoded, from_noise, from_picture, sample
from jdx.backends.jittor.worker.jobs.encode import moments_of
from jdx.backends.jittor.worker.jobs.enhancer import bias_of
from jdx.backends.jittor.worker.jobs.levels import config_faults, read_config
from jdx.backends.jittor.worker.jobs.pictures import Floats, check_finite, to_pixels, write_pngs
from jdx.backends.jittor.worker.jobs.samplers import start
from jdx.backends.jittor.worker.jobs.sizes import in_batches, pictures_at_once
from jdx.backends.jittor.worker.jobs.words import spoken
from jdx.backends.jittor.worker.nets.adapters import Adapter, load_adapter, worn
from jdx.backends.jittor.worker.nets.models import Models, load
from jdx.backends.jittor.worker.tell import Tell
from jdx.errors import ConfigError, Fault
from jdx.methods.prompts import interpolate

GIB_AT_512 = 2.0
"""Working memory of one guided picture, 512 px, in float32: the attention's logits are made whole."""
TEXTS_AT_ONCE = 32


def run(job: GenerateJob, out: Path, tell: Tell) -> None:
    """Write out/STYLE/FILE for every picture and hand over each style's folder, see `Backend.generate`.

    Files that are there already are kept, so an interrupted job goes on. Raises: ConfigError with every fault of the
    job before drawing.
    """
    models = load(job.model, tell.dtype)
    drawer = Drawer(job, models, read_config(models.folder), tell)
    if faults := drawer.faults():
        raise ConfigError(faults, what="drawing job")
    tell.progress("drawing", sum(len(style.pictures) for style in job.styles))
    for style in job.styles:
        drawer.draw(style, out / style.style)
        tell.style(style.style, out / style.style)


@dataclass(frozen=True)
class Prepared:
    """What all batches of a style share: text states by prompt, and the start picture's posterior.

    biases: what an enhancer adds to the prompts' and to the negatives' states, (tokens, width) or nothing.
    """

    style: StyleDrawJob
    folder: Path
    text: dict[str, Floats]
    moments: tuple[Floats, Floats] | None
    biases: tuple[Floats | None, Floats | None]


@dataclass
class Drawer:
    """Draws one style after the other with one model."""

    job: GenerateJob
    models: Models
    scheduler: dict[str, Any]
    tell: Tell

    def faults(self) -> list[Fault]:
        """What of the job cannot be drawn here."""
        found = [*drawing_faults(self.job, self.models.vae_factor), *config_faults(self.scheduler)]
        blended = [style.style for style in self.job.styles if style.blend is not None]
        allowed = "StyleBlend is not there with Jittor: draw without method.blend, or use backend=torch"
        return found + [Fault(f"style {style}: blend", "", allowed) for style in blended]

    def draw(self, style: StyleDrawJob, folder: Path) -> None:
        """Write the missing pictures of a style."""
        folder.mkdir(parents=True, exist_ok=True)
        todo = [picture for picture in style.pictures if not (folder / picture.file).exists()]
        self.tell.advance(len(style.pictures) - len(todo))
        if not todo:
            return
        most = self.job.batch_size or pictures_at_once(self.job.resolution, GIB_AT_512)
        adapter = load_adapter(style.adapter, self.models) if style.adapter is not None else Adapter()
        with worn(self.models, adapter, style.lora_scale), spoken(self.models, adapter.tokens):
            text = self._states([word for one in todo for word in _texts(one)])
            moments = self._start_moments(style.init) if style.init is not None else None
            ready = Prepared(style, folder, text, moments, _biases(style, adapter))
            for pictures in in_batches(todo, most):
                self._batch(pictures, ready)

    def _states(self, texts: Sequence[str]) -> dict[str, Floats]:
        """Text states (tokens, width) of all distinct prompts, through the adapted text encoder."""
        prompts = list(dict.fromkeys(texts))
        found: dict[str, Floats] = {}
        with jt.no_grad():
            for some in in_batches(prompts, TEXTS_AT_ONCE):
                states = self.models.embed(some).float32().numpy()
                found |= dict(zip(some, states, strict=True))
        return found

    def _start_moments(self, init: InitSpec) -> tuple[Floats, Floats]:
        """Posterior of the start picture, resized to the exact square (bicubic) if it has another size."""
        size = (self.job.resolution, self.job.resolution)
        picture = load_picture(init.picture)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        return moments_of(self.models, to_pixels(picture)[None])

    def _batch(self, pictures: Sequence[PictureSpec], ready: Prepared) -> None:
        init, files = ready.style.init, [ready.folder / picture.file for picture in pictures]
        sampler = start(self.job.sampler, self.scheduler, init.strength if init else None)
        noise, seeds = Noise(self.tell.inputs), [picture.seed for picture in pictures]
        if init is None or ready.moments is None:
            latents = from_noise(sampler, noise, seeds)
        else:
            latents = from_picture(self.models, sampler, noise, seeds, ready.moments, init.sampled)
        text, negative = _contexts(pictures, ready)
        guidance = self.job.sampler.guidance_scale
        latents = sample(
            self.models, sampler, latents, text, negative, guidance, lambda: self.tell.advance(0)
        )
        check_finite(latents, files)
        write_pngs(decoded(self.models, latents), files)
        self.tell.advance(len(pictures))


def _biases(style: StyleDrawJob, adapter: Adapter) -> tuple[Floats | None, Floats | None]:
    """`Prepared.biases` of a style."""
    if adapter.enhancer is None:
        return None, None
    bias = bias_of(adapter.enhancer)
    return bias, bias if style.enhanced == "both" else None


def _texts(picture: PictureSpec) -> tuple[str, ...]:
    """Every text whose states a picture needs."""
    own = (picture.prompt, picture.negative_prompt)
    return own if picture.plain is None else (*own, picture.plain.prompt, picture.plain.negative_prompt)


def _contexts(pictures: Sequence[PictureSpec], ready: Prepared) -> tuple[Floats, Floats]:
    """States (n, tokens, width) of the prompts and of the negatives, mixed with the plain ones where asked for.

    An enhancer speaks for the style, so plain prompts do not get its bias.
    """
    prompts: list[Any] = []
    negatives: list[Any] = []
    text: dict[str, Any] = ready.text
    for picture in pictures:
        prompt, negative = (
            text[words] if bias is None else text[words] + bias
            for words, bias in zip((picture.prompt, picture.negative_prompt), ready.biases, strict=True)
        )
        if (plain := picture.plain) is not None:
            prompt = interpolate(prompt, text[plain.prompt], plain.share)
            negative = interpolate(negative, text[plain.negative_prompt], plain.share)
        prompts.append(prompt)
        negatives.append(negative)
    return np.stack(prompts), np.stack(negatives)
