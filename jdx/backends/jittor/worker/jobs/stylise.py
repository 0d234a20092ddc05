"""StyleID (Chung et al. 2024) in Jittor: redraw pictures in the style of references.

A content's inversion keeps the queries of the chosen self-attentions, a reference's their keys and values, at every
time step that will be injected. They wait in the machine's memory: one reference's, and those of as many of its
contents as there is room for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np

from jdx.backends.attention_names import styleid_layers
from jdx.backends.base import StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.backends.draw_checks import stylising_faults
from jdx.backends.jittor.worker.jobs.drawing import decoded, denoised
from jdx.backends.jittor.worker.jobs.encode import moments_of
from jdx.backends.jittor.worker.jobs.levels import alphas_cumprod, config_faults, read_config
from jdx.backends.jittor.worker.jobs.pictures import Floats, check_finite, to_pixels, write_pngs
from jdx.backends.jittor.worker.jobs.sizes import in_batches, pictures_at_once
from jdx.backends.jittor.worker.nets.attention import Hook
from jdx.backends.jittor.worker.nets.models import Models, load
from jdx.backends.jittor.worker.nets.unet import hooked, self_attentions
from jdx.backends.jittor.worker.tell import Tell
from jdx.backends.views import centred_square
from jdx.errors import ConfigError, Fault
from jdx.methods.styleid import Levels, ddim_levels, denoise, injected, invert

GIB_AT_512 = 1.0
"""Working memory of one picture in a UNet pass, in float32."""
HOST_SHARE = 0.4
"""Of the machine's free memory, for the features of contents."""
VAE_BATCH = 4
TINY = float(np.finfo(np.float32).tiny)

Todo = tuple[str, Path, int]
"""(file to write, content picture, index of its reference)."""
Features = dict[tuple[str, str], list[Floats]]
"""{(layer, "q" | "k" | "v"): (n, S, C) of each time step with injection, ascending}."""


def run(job: StyliseJob, out: Path, tell: Tell) -> None:
    """Write out/STYLE/FILE for every content picture, see `Backend.stylise`; pictures already there are kept.

    Raises: ConfigError with every fault of the job, before any work.
    """
    models = load(job.model, tell.dtype)
    scheduler = read_config(models.folder)
    levels, layers = _checked(job, models, scheduler)
    engine = StyleId(
        models, job.spec, layers, levels, str(scheduler["prediction_type"]), job.resolution, tell
    )
    tell.progress("stylising", sum(_passes(style, out, job.spec.steps) for style in job.styles))
    for style in job.styles:
        folder = out / style.style
        folder.mkdir(parents=True, exist_ok=True)
        engine.stylise(style, folder, job.batch_size or pictures_at_once(job.resolution, GIB_AT_512))
        tell.style(style.style, folder)


def _checked(job: StyliseJob, models: Models, scheduler: Mapping[str, Any]) -> tuple[Levels, tuple[str, ...]]:
    """DDIM's levels and the full paths of the job's layers. Raises: ConfigError with every fault of the job."""
    faults = [*stylising_faults(job, models.vae_factor), *config_faults(scheduler)]
    levels, layers = Levels((), ()), tuple[str, ...]()
    try:
        offset, to_one = int(scheduler["steps_offset"]), bool(scheduler.get("set_alpha_to_one", True))
        alphas = alphas_cumprod(scheduler).tolist()
        levels = ddim_levels(alphas, job.spec.steps, steps_offset=offset, set_alpha_to_one=to_one)
    except ValueError as error:
        faults.append(Fault("steps", str(job.spec.steps), str(error)))
    try:
        layers = styleid_layers(list(self_attentions(models.unet)), job.spec.layers)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults, "StyleID job")
    return levels, layers


def _todo(style: StyleStyliseJob, folder: Path) -> list[Todo]:
    return [(file, *content) for file, content in style.contents.items() if not (folder / file).exists()]


def _passes(style: StyleStyliseJob, out: Path, steps: int) -> int:
    """UNet passes of one picture that a style takes."""
    todo = _todo(style, out / style.style)
    return steps * (2 * len(todo) + len({which for *_, which in todo}))


@dataclass
class Inverted:
    """DDIM inversions of some pictures: their first latents (n, C, h, w), and what their attentions saw."""

    latents: Floats
    features: Features = field(default_factory=dict)


@dataclass
class StyleId:
    """StyleID with one model, steps and set of layers. layers: full paths; kind: the network's prediction type."""

    models: Models
    spec: StyleIdSpec
    layers: Sequence[str]
    levels: Levels
    kind: str
    resolution: int
    tell: Tell

    def __post_init__(self) -> None:
        self.rows = {t: row for row, t in enumerate(injected(self.levels, self.spec.start_step))}
        with jt.no_grad():
            self.text: Floats = self.models.embed([""]).float32().numpy()

    def stylise(self, style: StyleStyliseJob, folder: Path, most: int) -> None:
        """Write the missing pictures of a style, those of one reference after the other, `most` at a time."""
        todo = _todo(style, folder)
        for which in dict.fromkeys(which for *_, which in todo):
            reference = self.inverted([style.references[which]], ("k", "v"))
            size = sum(part.nbytes for parts in reference.features.values() for part in parts)
            room = int(HOST_SHARE * _free_memory() / max(1, size // 2))  # a content lends one part, not two
            mine = [one for one in todo if one[2] == which]
            for some in in_batches(mine, max(1, min(most, room))):
                contents = self.inverted([picture for _, picture, _ in some], ("q",))
                files = [folder / file for file, *_ in some]
                latents = self.redraw(contents, reference)
                check_finite(latents, files)
                write_pngs(decoded(self.models, latents), files)

    def inverted(self, pictures: Sequence[Path], parts: Sequence[str]) -> Inverted:
        """The inversions of some pictures with these parts of the layers' inputs."""
        made = Inverted(self.encoded(pictures))

        def keep(layer: str, q: Any, k: Any, v: Any) -> tuple[Any, Any, Any, float]:
            inputs = {"q": q, "k": k, "v": v}
            for part in parts:
                made.features.setdefault((layer, part), []).append(inputs[part].float32().numpy())
            return q, k, v, 1.0

        hooks: dict[str, Hook] = {layer: partial(keep, layer) for layer in self.layers}
        made.latents = invert(made.latents, self.levels, self.kind, self._predict(lambda t: hooks))
        return made

    def encoded(self, pictures: Sequence[Path]) -> Floats:
        """Clean latents (n, C, h, w), UNet scale: the mode of the VAE's posterior, not a sample."""
        pixels = np.stack([to_pixels(centred_square(picture, self.resolution)) for picture in pictures])
        parts = [pixels[i : i + VAE_BATCH] for i in range(0, len(pixels), VAE_BATCH)]
        latents: Floats = self.models.scaled(np.concatenate([moments_of(self.models, x)[0] for x in parts]))
        return latents

    def redraw(self, contents: Inverted, reference: Inverted) -> Floats:
        """Latents (n, C, h, w), UNet scale, of the contents drawn in the reference's style."""
        gamma, temperature = self.spec.gamma, self.spec.temperature
        z = adain(contents.latents, reference.latents) if self.spec.adain else contents.latents

        def inject(layer: str, row: int, q: Any, k: Any, v: Any) -> tuple[Any, Any, Any, float]:
            q_c = jt.array(contents.features[layer, "q"][row]).cast(q.dtype)
            k_s, v_s = (
                jt.array(np.repeat(reference.features[layer, part][row], len(z), 0)).cast(q.dtype)
                for part in ("k", "v")
            )
            return gamma * q_c + (1 - gamma) * q, k_s, v_s, temperature

        def hooks(t: int) -> dict[str, Hook]:
            return {layer: partial(inject, layer, self.rows[t]) for layer in self.layers}

        return denoise(z, self.levels, self.kind, self._predict(hooks))

    def _predict(self, hooks: Callable[[int], Mapping[str, Hook]]) -> Callable[[Floats, int], Floats]:
        """The network, with hooks(t) in its self-attentions at the time steps with injection."""

        def predict(x: Floats, t: int) -> Floats:
            with jt.no_grad(), hooked(self.models.unet, hooks(t) if t in self.rows else {}):
                text = jt.array(np.repeat(self.text, len(x), 0)).cast(self.models.dtype)
                answer = denoised(self.models, x, t, text)
            self.tell.advance(len(x))
            return answer

        return predict


def adain(content: Floats, style: Floats) -> Floats:
    """StyleID's "initial latent AdaIN" (Huang and Belongie 2017): σ(z^s)·(z^c − μ(z^c))/σ(z^c) + μ(z^s).

    μ and the unbiased σ are of each channel over both space axes; content (B, C, h, w), style broadcasts over B.
    """
    space = (-2, -1)
    mu_c, mu_s = content.mean(space, keepdims=True), style.mean(space, keepdims=True)
    sigma_c, sigma_s = (x.std(space, ddof=1, keepdims=True) for x in (content, style))
    # The paper's formula has no epsilon; only 0/0 needs help.
    moved: Floats = sigma_s * (content - mu_c) / np.maximum(sigma_c, TINY) + mu_s
    return moved


def _free_memory() -> int:
    """Bytes of this machine's memory that can be had now."""
    about = Path("/proc/meminfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    available = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return available[0] * 1024 if available else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
