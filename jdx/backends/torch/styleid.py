"""StyleID (Chung et al. 2024) with Stable Diffusion: redraw pictures in the style of references.

Each picture is inverted once; the inversion of a content keeps the queries of the chosen self-attentions,
that of a reference their keys and values, both at every time step that will be injected. Then the contents
are drawn again from their own z_T with those features. Empty prompt and no guidance throughout, so one UNet
pass per picture and step: N to invert, N to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from jdx.backends.base import OnStyle, StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.backends.torch.attention import processors
from jdx.backends.torch.develop import Developer, Folder, Handover, Picture
from jdx.backends.torch.devices import in_batches, pictures_that_fit, send
from jdx.backends.torch.inference import Aside, Denoiser, denoiser, even_rows
from jdx.backends.torch.models import Models
from jdx.backends.torch.pictures import PictureWriter
from jdx.backends.torch.styleid_checks import check, levels_of
from jdx.backends.torch.styleid_features import ALL, CONTENT, STYLE, Keeper, Lender
from jdx.backends.torch.styleid_layers import Capture, Inject
from jdx.backends.torch.styleid_memory import FeatureMemory, Inverted, Key, Shapes, places, size
from jdx.backends.torch.styleid_pictures import Squares
from jdx.digests import file_digest
from jdx.methods.styleid import adain, denoise, injected, invert
from jdx.progress import Progress

MOST = 48
"""Pictures in a pass: 25 contents and some references are inverted together."""
GIB_AT_512 = 0.35
"""Working memory of one picture in a UNet pass."""
VAE_BATCH = 4
"""Pictures in one pass of the VAE, whose activations are far larger than the UNet's."""

Wanted = tuple[Path, tuple[str, ...]]
"""(picture, the parts that its inversion shall keep)."""
Todo = tuple[Picture, Path, int]
"""(picture to write, content picture, index of its reference)."""

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
    folders = [Folder.of(style.style, out / style.style, style.contents) for style in job.styles]
    total = sum(map(partial(_passes, steps=job.spec.steps), job.styles, folders))
    with (
        progress.task("stylising", total) as task,
        PictureWriter() as writer,
        closing(
            StyleId(models, job.spec, layers, job.resolution, memory, job.batch_size, task.advance)
        ) as engine,
        ExitStack() as ending,
    ):
        developer = Developer(models, writer, VAE_BATCH, lambda n: None)
        hand_over = Handover(folders, on_style)
        # Upwards, and each whatever happened to the others: what is complete is handed over.
        ending.callback(memory.trim)
        ending.callback(hand_over, wait=True)
        ending.callback(developer.finish)
        ending.callback(engine.forget)
        engine.prepare(job, folders)
        styles = list(zip(job.styles, folders, strict=True))
        for place, (style, folder) in enumerate(styles):
            for then in styles[place + 1 : place + 2]:
                engine.expect(*then)
            engine.stylise(style, folder, developer, hand_over)


def _todo(style: StyleStyliseJob, folder: Folder) -> list[Todo]:
    return [(folder.picture(name), *style.contents[name]) for name in folder.missing]


def _passes(style: StyleStyliseJob, folder: Folder, steps: int) -> int:
    """UNet passes of one picture that a style takes."""
    todo = _todo(style, folder)
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
        self.memory, self.tick, self.squares = memory, tick, Squares(resolution)
        self.batch = batch_size or pictures_that_fit(models.device, resolution, GIB_AT_512, MOST)
        self.levels = levels_of(models, spec.steps)
        self.rows = {t: row for row, t in enumerate(injected(self.levels, spec.start_step))}
        self.times = {t: torch.tensor(t, device=models.device) for t in self.levels.timesteps}
        self.text = models.embed([""])
        self.inverting = self.drawing = Denoiser(models)
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

    def close(self) -> None:
        """End the threads that read pictures."""
        self.squares.close()

    def expect(self, style: StyleStyliseJob, folder: Folder) -> None:
        """Begin to read what the first batch of a style will invert, while the device draws another one."""
        todo = _todo(style, folder)
        used = {style.references[which]: None for *_, which in todo}
        wanted = [*((path, CONTENT) for _, path, _ in todo), *((path, STYLE) for path in used)]
        new = [path for path, parts in wanted if not self.memory.holds(self.key(path, parts))]
        self.squares.begin(new[: self.batch])

    @torch.no_grad()
    def stylise(
        self,
        style: StyleStyliseJob,
        folder: Folder,
        developer: Developer,
        launched: Callable[[], None] = lambda: None,
    ) -> None:
        """Draw the missing pictures of a style; launched(): after each batch.

        The last batch is still under way in the developer when this returns.
        """
        todo = _todo(style, folder)
        if not todo:
            return
        used = {which: style.references[which] for *_, which in todo}
        with self.memory.using([self.key(path, STYLE) for path in used.values()]):
            made: dict[int, Inverted] = {}
            if self.models.device.type != "cuda":  # a GPU inverts them with the first contents that want them
                references = self.inverted([(path, STYLE) for path in used.values()])
                made = dict(zip(used, references, strict=True))
            most = self.drawing.most(self._most(len(used)))
            even_size = -(-len(todo) // -(-len(todo) // most))

            def draw(some: Sequence[Todo]) -> None:
                self._draw(some, used, made, developer)
                launched()

            in_batches(todo, even_size, draw, f"StyleID, style {style.style}")

    def prepare(self, job: StyliseJob, folders: Sequence[Folder]) -> None:
        """Choose how passes are run: with captures for contents and their references together, and with injection."""
        drawn, inverted, most = [], [], self.batch
        for style, folder in zip(job.styles, folders, strict=True):
            if todo := _todo(style, folder):
                references = len({which for *_, which in todo})
                drawn.append(len(todo))
                inverted.append(len(todo) + references)
                most = min(most, self._most(references))
        rows = even_rows(inverted, self.batch), even_rows(drawn, most)
        self.inverting, self.drawing = (
            denoiser(self.models, job.compile, count, graphs=job.graphs) for count in rows
        )

    def _most(self, references: int) -> int:
        """Contents in one pass, beside so many references' features."""
        each, beside = (size(self.shapes(parts), self.models.dtype) for parts in (CONTENT, STYLE))
        return self.memory.count_that_fit(each, self.batch, references * beside)

    @torch.no_grad()
    def inverted(self, wanted: Sequence[Wanted]) -> list[Inverted]:
        """The inversions of some pictures, remembered or made, with these parts of the layers' inputs.

        Call it within `memory.using` of their keys, and use the result there.
        """
        keys = [self.key(*one) for one in wanted]
        known = {key: found for key in keys if (found := self.memory.get(key)) is not None}
        todo = {key: one for key, one in zip(keys, wanted, strict=True) if key not in known}
        self.tick(self.spec.steps * (len(wanted) - len(todo)))
        for made in in_batches(
            list(todo.items()), self._even(len(todo)), self._invert, "StyleID's inversion"
        ):
            known |= made
        return [known[key] for key in keys]

    def _even(self, count: int) -> int:
        """The size of even batches for so many inversions."""
        most = self.inverting.most(self.batch)
        return -(-count // -(-count // most)) if count else most

    @torch.no_grad()
    def redraw(self, contents: Sequence[Inverted], references: Sequence[Inverted]) -> Tensor:
        """Latents (B, C, h, w), UNet scale, of the contents drawn each in the style of its own reference."""
        z = torch.stack([_latent(content) for content in contents])
        if self.spec.adain:
            z = adain(z, torch.stack([_latent(reference) for reference in references]))

        compiled = self.drawing.mode != "off"
        rows = self.drawing.filled(len(contents))
        lender = Lender(contents, references, self.models.device, rows, whole=compiled)
        gamma, temperature = (self._number(x) for x in (self.spec.gamma, self.spec.temperature))
        injections = {layer: Inject(gamma, temperature) for layer in self.layers}

        def put(given: Sequence[Tensor]) -> None:
            for injection, (q, k, v) in zip(injections.values(), _in_parts(given, len(ALL)), strict=True):
                injection.q, injection.k, injection.v = q, k, v

        def predict(x: Tensor, t: int) -> Tensor:
            if t not in self.rows:
                return self._plainly(self.drawing, x, t)
            row = self.rows[t]
            lent = lender.lend(row, row - 1 if row else None)
            given = [lent[layer][part] for layer in self.layers for part in ALL]
            with processors(self.models.unet, injections):
                return self._beside(self.drawing, x, t, Aside(given, put))[0]

        return denoise(z, self.levels, self.models.prediction_type, predict)

    def _number(self, x: float) -> float | Tensor:
        """A setting of the injection; compiled code would be made anew for every other number."""
        return x if self.drawing.mode == "off" else torch.tensor(x, device=self.models.device)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Path]) -> Tensor:
        """Clean latents (B, C, h, w), UNet scale: the mode of the VAE's posterior, not a sample."""
        dtype = torch.float64 if self.models.dtype is torch.float64 else torch.float32
        pixels = send(self.squares.take(pictures), self.models.device)
        means = [self.models.moments(some)[0] for some in torch.split(pixels, VAE_BATCH)]
        return self.models.scaled(torch.cat(means)).to(dtype)

    def _draw(
        self,
        todo: Sequence[Todo],
        references: Mapping[int, Path],
        made: dict[int, Inverted],
        developer: Developer,
    ) -> None:
        """Launch some pictures; made: the references inverted so far, to which these contents' are added."""
        contents = [(content, CONTENT) for _, content, _ in todo]
        new = [which for which in dict.fromkeys(which for *_, which in todo) if which not in made]
        with self.memory.using([self.key(*content) for content in contents]), self._yielding():
            found = self.inverted([*contents, *((references[which], STYLE) for which in new)])
            made.update(zip(new, found[len(contents) :], strict=True))
            latents = self.redraw(found[: len(contents)], [made[which] for *_, which in todo])
            developer.develop(latents, [picture for picture, *_ in todo])

    def _invert(self, todo: Sequence[tuple[Key, Wanted]]) -> dict[Key, Inverted]:
        with self._yielding():
            made = {
                key: self.memory.allocate(key, self.shapes(parts), self.models.dtype)
                for key, (_, parts) in todo
            }
            z = self._capture(self.encode([path for _, (path, _) in todo]), list(made.values()))
        for one, latent in zip(made.values(), z, strict=True):
            one.latent = latent.clone()
        return made

    def _capture(self, latents: Tensor, into: Sequence[Inverted]) -> Tensor:
        """z_T of clean latents; the layers' inputs of the time steps with injection are written to `into`.

        Compiled or recorded passes give all parts at all time steps, whatever is kept of them: one kind of pass.
        """
        lasting = self.inverting.lasting
        keeper = Keeper(into, self.models.device, lent=lasting)
        wanted = dict.fromkeys(part for one in into for _, part in one.features)
        parts = ALL if lasting else tuple(wanted)
        captures = {layer: Capture(parts) for layer in self.layers}

        def take() -> list[Tensor]:
            return [x for capture in captures.values() for x in capture.taken().values()]

        def predict(x: Tensor, t: int) -> Tensor:
            if t not in self.rows and not lasting:
                return self._plainly(self.inverting, x, t)
            with processors(self.models.unet, captures):
                answer, left = self._beside(self.inverting, x, t, Aside(take=take))
            if t in self.rows:
                met = (dict(zip(parts, some, strict=True)) for some in _in_parts(left, len(parts)))
                keeper.keep(self.rows[t], dict(zip(self.layers, met, strict=True)))
            return answer

        z = invert(latents, self.levels, self.models.prediction_type, predict)
        keeper.close()
        return z

    def _plainly(self, denoise: Denoiser, x: Tensor, t: int) -> Tensor:
        answer = denoise(x, self.times[t], self.text.expand(len(x), -1, -1), plain=True)
        self.tick(len(x))
        return answer.to(x.dtype)

    def _beside(self, denoise: Denoiser, x: Tensor, t: int, aside: Aside) -> tuple[Tensor, Sequence[Tensor]]:
        answer, left = denoise.beside(x, self.times[t], self.text.expand(len(x), -1, -1), aside)
        self.tick(len(x))
        return answer.to(x.dtype), left

    @torch.no_grad()
    def _probe(self) -> dict[str, tuple[int, int]]:
        """(S, C) of each layer's inputs at this resolution, seen in one pass."""
        side = self.resolution // self.models.vae_factor
        x = torch.zeros(1, self.models.latent_channels, side, side).to(self.text)
        captures = {layer: Capture(("q",)) for layer in self.layers}
        with processors(self.models.unet, captures):
            self.models.unet(x, self.times[self.levels.timesteps[0]], encoder_hidden_states=self.text)
        met = {layer: capture.taken()["q"] for layer, capture in captures.items()}
        return {layer: (x.shape[1], x.shape[2]) for layer, x in met.items()}

    @contextmanager
    def _yielding(self) -> Iterator[None]:
        """Out of memory inside also drops graphs and the inversions nobody uses, so that the next try has more."""
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            self.memory.clear()
            self.forget()
            raise

    def forget(self) -> None:
        """Give the recorded passes' memory back."""
        self.inverting.forget()
        self.drawing.forget()


def _in_parts(tensors: Sequence[Tensor], count: int) -> Iterator[tuple[Tensor, ...]]:
    """Consecutive tuples of `count` each, one for a layer."""
    return zip(*(tensors[i::count] for i in range(count)), strict=True)


def _latent(one: Inverted) -> Tensor:
    if one.latent is None:
        raise RuntimeError("this inversion is unfinished: take it from StyleId.inverted")
    return one.latent
