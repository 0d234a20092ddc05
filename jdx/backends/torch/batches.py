"""What each adapter sees at each step: pictures, views, noise and time steps, all drawn from counters.

A sample is named by (seed, style, step, index), so it is the same whoever shares the pass, however many
samples fit into one, and wherever a run was resumed. Drawing is NumPy on the CPU, in one thread ahead of
the training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jdx import draws
from jdx.methods import diffusion

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
PREFETCH = 3  # steps drawn ahead: enough to hide drawing, too little to cost memory


@dataclass(frozen=True)
class Pictures:
    """Unscaled VAE moments of each picture, (variants, C, h, w), and its rows in the caption table.

    captions: one row for all views of a picture, or one for each. groups: how many pictures each of several sources
    has, in order; () = one source.
    """

    mean: Sequence[Floats]
    std: Sequence[Floats]
    captions: tuple[tuple[int, ...], ...]
    groups: tuple[int, ...] = ()

    def visit(self, position: int, *name: draws.Name) -> int:
        """The picture at a place of an endless walk: reshuffled rounds over the sources, and over each one's pictures.

        So every source is seen equally often, whatever the number of its pictures.
        """
        if not self.groups:
            return draws.visit(len(self.captions), position, *name)
        group = draws.visit(len(self.groups), position, *name, "source")
        place = draws.visit(self.groups[group], position // len(self.groups), *name, group)
        return sum(self.groups[:group]) + place


@dataclass(frozen=True)
class Source:
    """All that one style learns from; the class pictures are None without prior preservation.

    prior_weight and prior_fraction as in `AdapterSpec`; min_snr_gamma too.
    """

    style: str
    seed: int
    instance: Pictures
    prior: Pictures | None = None
    prior_weight: float = 0.0
    prior_fraction: float | None = None
    min_snr_gamma: float | None = None


@dataclass(frozen=True)
class Noising:
    """How a picture becomes a sample: latent = (mean + std·n − shift) · scaling, then noise at random.

    prediction_type: what the network predicts there, for weights of time steps.
    """

    alphas_cumprod: Tensor  # (T,) float64
    scaling: float
    shift: float = 0.0
    dtype: torch.dtype = torch.float32
    prediction_type: str = "epsilon"


class Sample(NamedTuple):
    """Which of a style's samples of a step: the i-th of the instance's loss or the i-th of the prior's."""

    prior: bool
    i: int


Plan = tuple[tuple[Sample, ...], ...]


def plan_passes(batch: int, accumulation: int, *, prior: bool, most: int) -> Plan:
    """A style's samples of one step, cut into passes of at most `most`; every style of a pack does the same.

    One batch holds `batch` instance samples and as many class samples. `accumulation` batches make a step.
    """
    passes = []
    for first in range(0, batch * accumulation, batch):
        halves = (False, True) if prior else (False,)
        samples = tuple(Sample(half, i) for half in halves for i in range(first, first + batch))
        passes += [samples[j : j + most] for j in range(0, len(samples), most)]
    return tuple(passes)


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass over K styles with m samples each; row k·m + j is sample j of style k."""

    latents: Tensor  # (K·m, C, h, w), scaled
    noise: Tensor  # (K·m, C, h, w)
    t: Tensor  # (K·m,) int64
    a: Tensor  # (K·m, 1, 1, 1), √ᾱ_t
    s: Tensor  # (K·m, 1, 1, 1), √(1 − ᾱ_t)
    captions: Tensor  # (K·m,) int64, rows of the caption table
    keys: Tensor  # (K·m,) int64, of the dropout masks
    prior: Tensor  # (K·m,) bool: a class sample
    weights: Tensor  # (K, m), of each sample's squared error in its style's loss

    def to(self, device: torch.device) -> Pass:
        """On the device, without waiting when the memory is pinned."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pinned(self) -> Pass:
        return self._each(Tensor.pin_memory)

    def _each(self, do: Callable[[Tensor], Tensor]) -> Pass:
        return replace(self, **{f.name: do(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class Drawer:
    """Draws the passes of a step for some styles."""

    sources: Sequence[Source]
    plan: Plan
    noising: Noising
    pin: bool = False

    def __call__(self, step: int) -> tuple[Pass, ...]:
        passes = (self._pass(step, samples) for samples in self.plan)
        return tuple(p.pinned() if self.pin else p for p in passes)

    def _pass(self, step: int, samples: Sequence[Sample]) -> Pass:
        per_step = sum(not sample.prior for samples in self.plan for sample in samples)
        T = len(self.noising.alphas_cumprod)
        drawn = [_draw(source, step, sample, per_step, T) for source in self.sources for sample in samples]
        latents, noise, t, captions, keys, prior = zip(*drawn, strict=True)
        shares = torch.tensor(
            [[s.prior_weight if sample.prior else 1.0 for sample in samples] for s in self.sources],
            dtype=torch.float64,
        )
        weights = shares / per_step * self._level_weights(torch.tensor(t)).view(shares.shape)
        return self._tensors(np.stack(latents), np.stack(noise), (t, captions, keys, prior), weights)

    def _level_weights(self, t: Tensor) -> Tensor:
        """Each sample's weight for its own time step: instance and class samples alike, row by row."""
        a, s = diffusion.amplitudes(self.noising.alphas_cumprod, t.view(len(self.sources), -1))
        rows = []
        for source, a_k, s_k in zip(self.sources, a, s, strict=True):
            gamma, kind = source.min_snr_gamma, self.noising.prediction_type
            rows.append(
                torch.ones_like(a_k) if gamma is None else diffusion.min_snr_weight(kind, a_k, s_k, gamma)
            )
        return torch.stack(rows)

    def _tensors(
        self,
        latents: Doubles,
        noise: Floats,
        numbers: Sequence[Sequence[int]],
        weights: Tensor,
    ) -> Pass:
        dtype = self.noising.dtype
        t, captions, keys, prior = (torch.tensor(n, dtype=torch.int64) for n in numbers)
        a, s = diffusion.amplitudes(self.noising.alphas_cumprod, t)
        return Pass(
            latents=((torch.from_numpy(latents) - self.noising.shift) * self.noising.scaling).to(dtype),
            noise=torch.from_numpy(noise).to(dtype),
            t=t,
            a=a.to(dtype)[:, None, None, None],
            s=s.to(dtype)[:, None, None, None],
            captions=captions,
            keys=keys,
            prior=prior.bool(),
            weights=weights.to(dtype),
        )


def _draw(
    source: Source, step: int, sample: Sample, per_step: int, T: int
) -> tuple[Doubles, Floats, int, int, int, bool]:
    """(posterior sample, noise, time step, caption row, dropout key, class sample or not) of one sample."""
    who = (source.seed, source.style)
    name = (*who, step, sample.i)
    share = source.prior_fraction
    prior = sample.prior or (share is not None and draws.uniform(*name, "class") < share)
    pictures = source.prior if prior else source.instance
    if pictures is None:
        raise ValueError(f"style {source.style}: a class sample was planned, but it has no class pictures")
    kind = "prior " if prior else ""
    which = pictures.visit(step * per_step + sample.i, *who, kind + "order")
    view = draws.integer(len(pictures.mean[which]), *name, kind + "view")
    mean, std = pictures.mean[which][view], pictures.std[which][view]
    latent = mean + std.astype(np.float64) * draws.normal(mean.shape, *name, kind + "posterior")
    noise = draws.normal(mean.shape, *name, kind + "noise")
    t = draws.integer(T, *name, kind + "timestep")
    rows = pictures.captions[which]
    caption = rows[view if len(rows) > 1 else 0]
    return latent, noise, t, caption, draws.integer(2**32, *name, kind + "dropout"), prior


@contextmanager
def drawn_ahead(draw: Drawer, first: int, last: int) -> Iterator[Iterator[tuple[Pass, ...]]]:
    """The passes of steps first … last − 1 in order, drawn by one thread a few steps ahead of their use."""
    with ThreadPoolExecutor(1, thread_name_prefix="draws") as pool:

        def steps() -> Iterator[tuple[Pass, ...]]:
            waiting: list[Future[tuple[Pass, ...]]] = []
            for step in range(first, last):
                waiting.append(pool.submit(draw, step))
                if len(waiting) > PREFETCH:
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()

        try:
            yield steps()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
