"""StyleID (Chung et al. 2024) with Stable Diffusion: redraw pictures in the style of references.

Each picture is inverted once; the inversion of a content keeps the queries of the chosen self-attentions,
that of a reference their keys and values, both at every time step that will be injected. Then the contents
are drawn again from their own z_T with those features. Empty prompt and no guidance throughout, so one UNet
pass per picture and step: N to invert, N to draw.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from jdx.backends.base import OnStyle, StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.backends.torch.attention import Parts, processors
from jdx.backends.torch.devices import in_batches, pictures_that_fit
from jdx.backends.torch.models import Models
from jdx.backends.torch.pictures import PictureWriter, to_pixels
from jdx.backends.torch.styleid_checks import check, levels_of
from jdx.backends.torch.styleid_layers import Capture, Inject
from jdx.backends.torch.styleid_memory import FeatureMemory, Inverted, Key, Shapes, places, size
from jdx.backends.views import centred_square
from jdx.digests import file_digest
from jdx.errors import BackendError
from jdx.methods.styleid import adain, denoise, injected, invert
from jdx.progress import Progress

CONTENT, STYLE = ("q",), ("k", "v")
"""The parts of a self-attention that a content and a reference lend."""
GIB_AT_512 = 0.35
"""Working memory of one picture in a UNet pass."""
VAE_BATCH = 4
"""Pictures in one pass of the VAE, whose activations are far larger than the UNet's."""

Todo = tuple[str, Path, int]
"""(file to write, content picture, index of its reference)."""

_memories: WeakKeyDictionary[Models, FeatureMemory] = WeakKeyDictionary()


def release() -> None:
    """Forget the inversions kept for the next trial; for when something else has run out of memory."""
    for memory in _memories.values():
        memory.clear()


def stylise(job: StyliseJob, models: Models, out: Path, progress: Progress, on_style: OnStyle) -> None:
    """Write out/STYLE/FILE (PNG, RGB) for every content picture of the job; pictures already there are kept.

    The batch changes nothing beyond rounding. A later job of this process with the same pictures, steps and
    layers takes their inversions from memory, as far as they fitted there, and only draws.
    Raises: ConfigError with every fault of the job, before any work; BackendError when it does not fit.
    """
    layers = check(job, models)
    memory = _memories.setdefault(models, FeatureMemory(places(models.device)))
    memory.next_job()
    total = sum(_passes(style, out, job.spec.steps) for style in job.styles)
    with progress.task("stylising", total) as task, PictureWriter() as writer:
        engine = StyleId(models, job.spec, layers, job.resolution, memory, job.batch_size, task.advance)
        finishing: deque[tuple[str, list[Future[None]]]] = deque()
        try:
            for style in job.styles:
                finishing.append((style.style, engine.stylise(style, out / style.style, writer)))
                if len(finishing) > 1:  # while this style's files are being written, hand over the one before
                    _finish(*finishing.popleft(), out, on_style)
        finally:
            while finishing:
                _finish(*finishing.popleft(), out, on_style)
            memory.trim()


def _finish(style: str, files: list[Future[None]], out: Path, on_style: OnStyle) -> None:
    for file in files:
        file.result()
    on_style(style, out / style)


def _todo(style: StyleStyliseJob, folder: Path) -> list[Todo]:
    return [(file, *content) for file, content in style.contents.items() if not (folder / file).exists()]


def _passes(style: StyleStyliseJob, out: Path, steps: int) -> int:
    """UNet passes of one picture that a style takes."""
    todo = _todo(style, out / style.style)
    return steps * (2 * len(todo) + len({which for *_, which in todo}))


class StyleId:
    """StyleID with one model, steps and set of layers; pictures are `inverted` once and redrawn at will.

    layers: full paths. memory: of this model's inversions, shared by all engines. batch_size: contents in a
    pass, 0 = by memory. tick(n): n UNet passes of one picture are done.
    """

    def __init__(
        self,
        models: Models,
        spec: StyleIdSpec,
        layers: Sequence[str],
        resolution: int,
        memory: FeatureMemory,
        batch_size: int = 0,
        tick: Callable[[int], None] = lambda n: None,
    ):
        self.models, self.spec, self.layers, self.resolution = models, spec, tuple(layers), resolution
        self.memory, self.tick = memory, tick
        self.batch = batch_size or pictures_that_fit(models.device, resolution, GIB_AT_512)
        self.levels = levels_of(models, spec.steps)
        self.rows = {t: row for row, t in enumerate(injected(self.levels, spec.start_step))}
        self.times = {t: torch.tensor(t, device=models.device) for t in self.levels.timesteps}
        self.text = models.embed([""])
        place = (resolution, self.layers)
        if place not in memory.sizes:
            memory.sizes[place] = self._probe()
        self.sizes = memory.sizes[place]

    def key(self, picture: Path, parts: Sequence[str]) -> Key:
        """Everything that an inversion depends on, the model apart."""
        steps = (self.levels.timesteps, len(self.rows))
        return (file_digest(picture), self.resolution, steps, self.layers, tuple(parts))

    def shapes(self, parts: Sequence[str]) -> Shapes:
        """Of one picture's features."""
        return {
            (layer, part): (len(self.rows), *self.sizes[layer]) for layer in self.layers for part in parts
        }

    @torch.no_grad()
    def stylise(self, style: StyleStyliseJob, folder: Path, writer: PictureWriter) -> list[Future[None]]:
        """Start writing the missing pictures of a style; the folder is complete when all futures are done."""
        folder.mkdir(parents=True, exist_ok=True)
        todo = _todo(style, folder)
        if not todo:
            return []
        used = {which: style.references[which] for *_, which in todo}
        with self.memory.using([self.key(path, STYLE) for path in used.values()]):
            references = dict(zip(used, self.inverted(list(used.values()), STYLE), strict=True))
            each = size(self.shapes(CONTENT), self.models.dtype)
            most = self.memory.count_that_fit(each, min(self.batch, len(todo)))
            even_size = -(-len(todo) // -(-len(todo) // most))
            draw = partial(self._draw, references=references, folder=folder, writer=writer)
            started = in_batches(todo, even_size, draw, f"StyleID, style {style.style}")
        return [future for futures in started for future in futures]

    @torch.no_grad()
    def inverted(self, pictures: Sequence[Path], parts: Sequence[str]) -> list[Inverted]:
        """The inversions of some pictures, remembered or made, with these parts of the layers' inputs.

        Call it within `memory.using` of their keys, and use the result there.
        """
        keys = [self.key(picture, parts) for picture in pictures]
        known = {key: found for key in keys if (found := self.memory.get(key)) is not None}
        todo = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in known}
        self.tick(self.spec.steps * (len(pictures) - len(todo)))
        invert_some = partial(self._invert, parts=parts)
        for made in in_batches(list(todo.items()), self.batch, invert_some, "StyleID's inversion"):
            known |= made
        return [known[key] for key in keys]

    @torch.no_grad()
    def redraw(self, contents: Sequence[Inverted], references: Sequence[Inverted]) -> Tensor:
        """Latents (B, C, h, w), UNet scale, of the contents drawn each in the style of its own reference."""
        z = torch.stack([_latent(content) for content in contents])
        if self.spec.adain:
            z = adain(z, torch.stack([_latent(reference) for reference in references]))

        def predict(x: Tensor, t: int) -> Tensor:
            if t not in self.rows:
                return self._unet(x, t)
            lent = partial(self._lent, contents, references, self.rows[t])
            gamma, temperature = self.spec.gamma, self.spec.temperature
            replaced = {layer: Inject(partial(lent, layer), gamma, temperature) for layer in self.layers}
            with processors(self.models.unet, replaced):
                return self._unet(x, t)

        return denoise(z, self.levels, self.models.prediction_type, predict)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Path]) -> Tensor:
        """Clean latents (B, C, h, w), UNet scale: the mode of the VAE's posterior, not a sample."""
        dtype = torch.float64 if self.models.dtype is torch.float64 else torch.float32
        pixels = torch.stack([square(picture, self.resolution) for picture in pictures])
        means = [self.models.moments(some)[0] for some in torch.split(pixels, VAE_BATCH)]
        return self.models.scaled(torch.cat(means)).to(dtype)

    def _draw(
        self, todo: Sequence[Todo], references: Mapping[int, Inverted], folder: Path, writer: PictureWriter
    ) -> list[Future[None]]:
        pictures = [picture for _, picture, _ in todo]
        files = [folder / file for file, *_ in todo]
        with self.memory.using([self.key(picture, CONTENT) for picture in pictures]), self._yielding():
            latents = self.redraw(self.inverted(pictures, CONTENT), [references[which] for *_, which in todo])
            self._check_finite(latents, files)
            pixels = torch.cat([self.models.decode(some) for some in torch.split(latents, VAE_BATCH)])
        return writer.write(pixels, files)

    def _check_finite(self, latents: Tensor, files: Sequence[Path]) -> None:
        fine = latents.isfinite().flatten(1).all(1).tolist()
        if bad := [str(file) for file, good in zip(files, fine, strict=True) if not good]:
            where = f"latents left the finite numbers in {self.models.dtype}"
            raise BackendError(f"{where}: {', '.join(bad)}; try backend.dtype=float32")

    def _invert(self, todo: Sequence[tuple[Key, Path]], parts: Sequence[str]) -> dict[Key, Inverted]:
        with self._yielding():
            made = {key: self.memory.allocate(key, self.shapes(parts), self.models.dtype) for key, _ in todo}
            z = self._capture(self.encode([path for _, path in todo]), list(made.values()), parts)
        for one, latent in zip(made.values(), z, strict=True):
            one.latent = latent.clone()
        return made

    def _capture(self, latents: Tensor, into: Sequence[Inverted], parts: Sequence[str]) -> Tensor:
        """z_T of clean latents; the layers' inputs of the time steps with injection are written to `into`."""

        def keep(layer: str, row: int, given: Parts) -> None:
            for part, x in given.items():
                for one, features in zip(into, x, strict=True):
                    one.features[layer, part][row].copy_(features, non_blocking=True)

        def predict(x: Tensor, t: int) -> Tensor:
            if t not in self.rows:
                return self._unet(x, t)
            row = self.rows[t]
            replaced = {layer: Capture(parts, partial(keep, layer, row)) for layer in self.layers}
            with processors(self.models.unet, replaced):
                return self._unet(x, t)

        return invert(latents, self.levels, self.models.prediction_type, predict)

    def _lent(
        self, contents: Sequence[Inverted], references: Sequence[Inverted], row: int, layer: str
    ) -> dict[str, Tensor]:
        """Content's q and style's k, v at one time step and layer, (B, S, C) each, on the device."""
        lent = {"q": torch.stack([self._row(one, layer, "q", row) for one in contents])}
        distinct = list({id(one): one for one in references}.values())
        place = {id(one): i for i, one in enumerate(distinct)}
        for part in STYLE:
            rows = [self._row(one, layer, part, row) for one in distinct]
            if len(rows) == 1:
                lent[part] = rows[0].expand(len(contents), -1, -1)
            else:
                lent[part] = torch.stack([rows[place[id(one)]] for one in references])
        return lent

    def _row(self, one: Inverted, layer: str, part: str, row: int) -> Tensor:
        return one.features[layer, part][row].to(self.models.device, non_blocking=True)

    def _unet(self, x: Tensor, t: int) -> Tensor:
        text = self.text.expand(len(x), -1, -1)
        answer = self.models.unet(x.to(self.models.dtype), self.times[t], encoder_hidden_states=text).sample
        self.tick(len(x))
        return torch.as_tensor(answer).to(x.dtype)

    @torch.no_grad()
    def _probe(self) -> dict[str, tuple[int, int]]:
        """(S, C) of each layer's inputs at this resolution, seen in one pass."""
        sizes: dict[str, tuple[int, int]] = {}

        def note(layer: str, given: Parts) -> None:
            sizes[layer] = (given["q"].shape[1], given["q"].shape[2])

        side = self.resolution // self.models.vae_factor
        x = torch.zeros(1, self.models.latent_channels, side, side).to(self.text)
        taps = {layer: Capture(("q",), partial(note, layer)) for layer in self.layers}
        with processors(self.models.unet, taps):
            self.models.unet(x, self.times[self.levels.timesteps[0]], encoder_hidden_states=self.text)
        return sizes

    @contextmanager
    def _yielding(self) -> Iterator[None]:
        """Out of memory inside also drops the inversions nobody uses, so that the next try has more."""
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            self.memory.clear()
            raise


def square(picture: Path, resolution: int) -> Tensor:
    """Pixels (3, resolution, resolution) in [-1, 1]: the largest centred square, resized by Lanczos.

    As in the authors' program.
    """
    return to_pixels(centred_square(picture, resolution))


def _latent(one: Inverted) -> Tensor:
    if one.latent is None:
        raise RuntimeError("this inversion is unfinished: take it from StyleId.inverted")
    return one.latent
