"""What each adapter sees at each step: pictures, views, noise and time steps, all drawn from counters.

A sample is named by (seed, style, step, index), so it is the same whoever shares the pass, however many
samples fit into one, wherever a run was resumed, and whichever backend trains (NumPy only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from jdx import draws
from jdx.backends.base import AdapterSpec, TrainJob
from jdx.backends.windows import has_prior
from jdx.methods import diffusion

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MOMENTS = "moments.safetensors"
"""The file of an encoding: `mean` and `std`, float32 (pictures, variants, C, h, w)."""


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

    alphas_cumprod: Doubles  # (T,)
    scaling: float
    shift: float = 0.0
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


def read_sources(job: TrainJob, adapters: Sequence[AdapterSpec]) -> tuple[list[str], list[Source]]:
    """The distinct captions of some styles, and what each style learns from, captions given by their row."""
    texts: dict[str, int] = {}
    read = lru_cache(maxsize=None)(load_file)  # styles share class pictures: one copy in memory

    def pictures(folders: Sequence[Path], captions: Sequence[str | tuple[str, ...]]) -> Pictures:
        several = [(caption,) if isinstance(caption, str) else caption for caption in captions]
        rows = tuple(tuple(texts.setdefault(text, len(texts)) for text in some) for some in several)
        moments = [read(folder / MOMENTS) for folder in folders]
        mean, std = ([picture for m in moments for picture in m[name]] for name in ("mean", "std"))
        return Pictures(mean, std, rows)

    sources = []
    for a in adapters:
        folders = [job.moments[source] for source in a.sources or (a.style,)]
        instance = pictures(folders, a.captions)
        if len(folders) > 1:
            instance = replace(
                instance, groups=tuple(len(read(folder / MOMENTS)["mean"]) for folder in folders)
            )
        prior = pictures(job.prior_moments[a.style], a.prior_captions) if has_prior(a) else None
        numbers = (a.prior_weight, a.prior_fraction, a.min_snr_gamma)
        sources.append(Source(a.style, a.seed, instance, prior, *numbers))
    return list(texts), sources


@dataclass(frozen=True)
class Drawn:
    """The samples of one pass over K styles with m each; row k·m + j is sample j of style k."""

    latents: Doubles  # (K·m, C, h, w), scaled
    noise: Floats  # (K·m, C, h, w)
    t: Ints  # (K·m,)
    a: Doubles  # (K·m,), √ᾱ_t
    s: Doubles  # (K·m,), √(1 − ᾱ_t)
    captions: Ints  # (K·m,), rows of the caption table
    keys: Ints  # (K·m,), of the dropout masks, in [0, 2³²)
    prior: npt.NDArray[np.bool_]  # (K·m,): a class sample
    weights: Doubles  # (K, m), of each sample's squared error in its style's loss


def draw_pass(
    sources: Sequence[Source], plan: Plan, noising: Noising, step: int, samples: Sequence[Sample]
) -> Drawn:
    """One pass of `plan` at `step` over some styles."""
    per_step = sum(not sample.prior for samples in plan for sample in samples)
    T = len(noising.alphas_cumprod)
    drawn = [_draw(source, step, sample, per_step, T) for source in sources for sample in samples]
    latents, noise, t, captions, keys, prior = zip(*drawn, strict=True)
    shares = np.array([[s.prior_weight if sample.prior else 1.0 for sample in samples] for s in sources])
    a, s = diffusion.amplitudes(noising.alphas_cumprod, np.array(t, np.int64))
    return Drawn(
        latents=(np.stack(latents) - noising.shift) * noising.scaling,
        noise=np.stack(noise),
        t=np.array(t, np.int64),
        a=a,
        s=s,
        captions=np.array(captions, np.int64),
        keys=np.array(keys, np.int64),
        prior=np.array(prior, bool),
        weights=shares / per_step * _level_weights(sources, noising.prediction_type, a, s),
    )


def _level_weights(sources: Sequence[Source], kind: str, a: Doubles, s: Doubles) -> Doubles:
    """Each sample's weight for its own time step: instance and class samples alike, row by row."""
    rows = []
    a, s = a.reshape(len(sources), -1), s.reshape(len(sources), -1)
    with np.errstate(divide="ignore"):  # no signal at all has a finite weight
        for source, a_k, s_k in zip(sources, a, s, strict=True):
            gamma = source.min_snr_gamma
            rows.append(
                np.ones_like(a_k) if gamma is None else diffusion.min_snr_weight(kind, a_k, s_k, gamma)
            )
    return np.stack(rows)


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
