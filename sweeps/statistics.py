"""What is a difference and what is luck: intervals and paired tests of final scores over styles and seeds.

A recipe's numbers are cells: one per seed and style, six values each. All functions are vectorised; the formula is
the contest's (`evaluation.formula`, whose scalar functions work on arrays as they are, but for FID's ceiling).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from evaluation.formula import FID_CEILING, style_part
from jdx.words import counted

Array = NDArray[np.float64]
Index = NDArray[np.intp]

NUMBERS = ("dino", "hist", "lpips", "clip_iqa", "clip_r", "fid")
"""Order of the last axis of `Cells.values`."""
LEVEL = 0.05
DRAWS = 2000
CHUNK = 250
"""Draws made at a time: memory is draws × seeds × styles × 6 numbers."""
FEWEST = 6
"""Pairs below which no signed-rank test can come under 5 %: 2 / 2⁵ = 6.25 %."""


@dataclass(frozen=True)
class Cells:
    """One recipe on one set: `values` (seeds, styles, 6), of which FID is each style's share, and `pictures` (seeds,
    styles), how many each cell rests on.

    Raises: ValueError for shapes that do not fit, or values that are not finite.
    """

    styles: tuple[str, ...]
    values: Array
    pictures: Array

    def __post_init__(self) -> None:
        seeds = len(self.values)
        shapes = (self.values.shape, self.pictures.shape)
        expected = ((seeds, len(self.styles), len(NUMBERS)), (seeds, len(self.styles)))
        if not self.styles or not seeds or shapes != expected:
            raise ValueError(
                f"cells of {len(self.styles)} styles have shapes {shapes}, they must be {expected}"
            )
        if not (np.isfinite(self.values).all() and (self.pictures > 0).all()):
            raise ValueError("cells hold values that are not finite, or styles without pictures")

    @property
    def seeds(self) -> int:
        """Runs of the recipe."""
        return len(self.values)

    def of(self, styles: Sequence[str]) -> Cells:
        """The same for some of the styles, in this order."""
        places = [self.styles.index(style) for style in styles]
        return Cells(tuple(styles), self.values[:, places], self.pictures[:, places])

    @property
    def score(self) -> float:
        """Mean over the seeds of the final score."""
        return float(final_scores(self.values, self.pictures).mean())


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A recipe minus another one, on the styles that both have.

    p_styles: two-sided signed-rank p with one pair per style, seeds averaged: would other styles show it too?
    p_cells: with one pair per style and seed: do these styles show it, or could new seeds undo it?
    """

    value: float
    interval: Interval | None
    styles: int
    pairs: int
    p_styles: float | None
    p_cells: float | None


def fid_shares(fid: float, without: Sequence[float] | None, styles: int) -> Array:
    """Each style's share of the pooled FID, (K,): their mean is the FID, and drawing styles anew moves the mean as it
    moves the FID, to first order (the jackknife's pseudo-values, Efron 1982, centred on the FID).

    FID itself is not computed on drawn styles: a style drawn twice adds pictures but no variety, and FID takes lost
    variety for distance, so the scores of draws would all lie below the score. without: FID without each style; None
    gives every style the same share, and FID then counts as known exactly.
    """
    if without is None or styles < 2:
        return np.full(styles, float(fid))
    rest = np.asarray(without, dtype=np.float64)
    shares: Array = fid + (styles - 1) * (rest.mean() - rest)
    return shares


def final_scores(values: Array, pictures: Array) -> Array:
    """The final score of (..., K, 6) values and (..., K) numbers of pictures: (...).

    Means over styles, CLIP-R over pictures, as the official checker has it.
    """
    style, quality = _parts(_overall(values, pictures))
    scores: Array = style * quality
    return scores


def _overall(values: Array, pictures: Array) -> Array:
    """(..., 6): the six numbers of the set."""
    means: Array = values.mean(axis=-2)
    hit = NUMBERS.index("clip_r")
    means[..., hit] = (values[..., hit] * pictures).sum(-1) / pictures.sum(-1)
    return means


def _parts(numbers: Array) -> tuple[Array, Array]:
    dino, hist, lpips, iqa, clip_r, fid = np.moveaxis(numbers, -1, 0)
    style: Array = style_part(dino, hist, lpips)  # type: ignore[assignment]
    quality = 0.5 * clip_r + 0.4 * (FID_CEILING - np.minimum(fid, FID_CEILING)) / FID_CEILING + 0.1 * iqa
    return style, quality


def contributions(cells: Cells) -> Array:
    """What each style adds to its run's final score, (R, K): S_k·Q + S·Q_k − S·Q, whose mean over styles is S·Q."""
    numbers, pictures = cells.values.copy(), cells.pictures
    whole = _overall(cells.values, pictures)
    hit, fid = NUMBERS.index("clip_r"), NUMBERS.index("fid")
    numbers[..., hit] *= pictures / pictures.mean(-1, keepdims=True)
    # Without the ceiling in single styles: it cuts the set's FID, of which these are shares.
    beyond = whole[..., fid] >= FID_CEILING
    numbers[..., fid] = np.where(beyond[:, None], FID_CEILING, numbers[..., fid])
    dino, hist, lpips, iqa, clip_r, shares = np.moveaxis(numbers, -1, 0)
    style_k: Array = style_part(dino, hist, lpips)  # type: ignore[assignment]
    quality_k = 0.5 * clip_r + 0.4 * (FID_CEILING - shares) / FID_CEILING + 0.1 * iqa
    style, quality = (part[:, None] for part in _parts(whole))
    shares_of_score: Array = style_k * quality + style * quality_k - style * quality
    return shares_of_score


def interval(cells: Cells, draws: int = DRAWS, seed: int = 0) -> Interval | None:
    """95 % bootstrap interval of the final score over styles and, within each drawn style, seeds; None for one style.

    Percentiles, their distance from the score widened by t(K − 1)·√(K / (K − 1)) / 1.96: with K styles percentiles
    alone are too narrow (Hesterberg 2015, section 5), at four styles by half.
    """
    if len(cells.styles) < 2:
        return None
    rng = np.random.default_rng(seed)
    scores = [_draw(cells, styles, rng) for styles in _style_draws(len(cells.styles), draws, rng)]
    return _widened(np.concatenate(scores), cells.score, len(cells.styles))


def difference(ours: Cells, theirs: Cells, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Ours minus theirs on common styles; both see the same drawn styles, each its own seeds.

    Raises: ValueError without a common style.
    """
    common = [style for style in ours.styles if style in theirs.styles]
    if not common:
        raise ValueError("nothing to pair: the recipes have no style in common")
    a, b = ours.of(common), theirs.of(common)
    value, found = a.score - b.score, None
    if len(common) > 1:
        rng = np.random.default_rng(seed)
        drawn = [
            _draw(a, styles, rng) - _draw(b, styles, rng) for styles in _style_draws(len(common), draws, rng)
        ]
        found = _widened(np.concatenate(drawn), value, len(common))
    own, other = contributions(a), contributions(b)
    pairs = min(len(own), len(other))
    cells = (own[:pairs] - other[:pairs]).ravel()
    by_style = own.mean(0) - other.mean(0)
    return Difference(value, found, len(common), len(cells), signed_rank_p(by_style), signed_rank_p(cells))


def _style_draws(styles: int, draws: int, rng: np.random.Generator) -> list[Index]:
    """Drawn styles (≤ CHUNK, K), chunk by chunk."""
    sizes = [min(CHUNK, draws - start) for start in range(0, draws, CHUNK)]
    return [rng.integers(0, styles, (size, styles)) for size in sizes]


def _draw(cells: Cells, styles: Index, rng: np.random.Generator) -> Array:
    """Final scores of drawn styles (B, K): each takes its seeds anew, for training noise is a style's own."""
    seeds = rng.integers(0, cells.seeds, (len(styles), cells.seeds, styles.shape[1]))
    places = styles[:, None, :]
    scores: Array = final_scores(cells.values[seeds, places], cells.pictures[seeds, places]).mean(1)
    return scores


def _widened(drawn: Array, value: float, styles: int) -> Interval:
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    factor = scipy.stats.t.ppf(1 - LEVEL / 2, styles - 1) / scipy.stats.norm.ppf(1 - LEVEL / 2)
    factor *= math.sqrt(styles / (styles - 1))
    return Interval(
        float(value - factor * max(0.0, value - low)), float(value + factor * max(0.0, high - value))
    )


def signed_rank_p(differences: Array | Sequence[float]) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test (1945), SciPy's; zeros keep their ranks (Pratt 1959).

    None for fewer than two pairs; 1 where all are equal.
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        return None
    if not d.any():
        return 1.0
    return float(scipy.stats.wilcoxon(d, zero_method="pratt").pvalue)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number (Holm 1979); None stays None and is not counted."""
    known = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    found: list[float | None] = [None] * len(ps)
    worst = 0.0
    for rank, (p, i) in enumerate(known):
        worst = max(worst, min(1.0, (len(known) - rank) * p))
        found[i] = worst
    return found


def verdict(value: float, pairs: int, p_styles: float | None, p_cells: float | None, name: str) -> str:
    """What corrected p-values mean, in words; `name` is the recipe compared with."""
    word = "better" if value > 0 else "worse"
    if p_styles is not None and p_styles < LEVEL:
        return f"{word} than {name}, on new styles too"
    if p_cells is not None and p_cells < LEVEL:
        return f"{word} than {name} on these styles; whether on others is open"
    if pairs < FEWEST:
        return f"cannot be told from luck: {counted(pairs, 'pair')} of style and seed, {FEWEST} are the least"
    return "may be luck"
