"""Intervals and tests of final scores, against scipy, the scorer's formula and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from evaluation.fid import distances_without, frechet_distance
from evaluation.formula import final_score
from sweeps.statistics import (
    NUMBERS,
    Array,
    Cells,
    contributions,
    difference,
    fid_shares,
    final_scores,
    holm,
    interval,
    signed_rank_p,
    verdict,
)

CENTRE = np.array([0.15, 0.6, 0.45, 0.75, 0.8, 2.0])
SPREAD = np.array([0.05, 0.1, 0.05, 0.05, 0.0, 0.5])


def cells(
    rng: np.random.Generator,
    styles: int,
    seeds: int = 1,
    *,
    shift: float = 0.0,
    spread: Array | None = None,
    noise: float = 0.2,
) -> Cells:
    """Styles around CENTRE (common to the seeds), each cell with noise of its own; shift: of Hist, in all styles."""
    middle = CENTRE + (rng.normal(size=(styles, 6)) * SPREAD if spread is None else spread)
    values = middle + noise * rng.normal(size=(seeds, styles, 6)) * SPREAD
    values[..., 1] += shift
    return Cells(tuple(f"{k:02d}" for k in range(styles)), values, np.full((seeds, styles), 25.0))


def test_final_scores_are_the_scorers() -> None:
    some = cells(np.random.default_rng(0), 5, 2)
    for values, score in zip(some.values, final_scores(some.values, some.pictures), strict=True):
        assert score == pytest.approx(final_score(**dict(zip(NUMBERS, values.mean(0), strict=True))))


def test_clip_r_counts_pictures_and_the_rest_styles() -> None:
    values = np.stack([CENTRE, CENTRE])
    values[:, NUMBERS.index("clip_r")] = [1.0, 0.0]
    expected = dict(zip(NUMBERS, CENTRE, strict=True)) | {"clip_r": 0.9}
    assert final_scores(values, np.array([9.0, 1.0])) == pytest.approx(final_score(**expected))


@pytest.mark.parametrize("fid", [2.0, 30.0])
def test_contributions_average_to_the_score(fid: float) -> None:
    some = cells(np.random.default_rng(1), 7, 3)
    some.values[..., 5] += fid - 2.0
    some.pictures[:] = np.random.default_rng(2).integers(5, 26, (3, 7))
    assert contributions(some).mean(1) == pytest.approx(final_scores(some.values, some.pictures))


def test_shares_of_fid_average_to_it_and_move_as_it_does() -> None:
    rng = np.random.default_rng(3)
    references = [rng.normal(size=(40, 3)) for _ in range(12)]
    generated = [rng.normal(loc=rng.normal(size=3), size=(40, 3)) + 0.5 for _ in range(12)]
    fid = frechet_distance(np.concatenate(generated), np.concatenate(references))
    shares = fid_shares(fid, distances_without(generated, references), 12)
    assert shares.mean() == pytest.approx(fid)
    moved, exact = [], []
    for _ in range(200):  # every style twice or not at all, half of them: far from the set itself
        drawn = rng.permutation(12)[:8]
        moved.append(shares[drawn].mean())
        parts = [np.concatenate([side[k] for k in drawn]) for side in (generated, references)]
        exact.append(frechet_distance(parts[0], parts[1]))
    assert np.corrcoef(moved, exact)[0, 1] > 0.9
    assert np.std(moved) == pytest.approx(np.std(exact), rel=0.25)
    assert fid_shares(2.0, None, 3).tolist() == [2.0, 2.0, 2.0]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """95 % nominal, 12 styles, 2 seeds: drawn styles and seeds are those of the world."""
    rng = np.random.default_rng(4)
    truth = final_score(**dict(zip(NUMBERS, CENTRE, strict=True)))
    found = [interval(cells(rng, 12, 2), draws=200, seed=i) for i in range(300)]
    share = np.mean([one is not None and one.low <= truth <= one.high for one in found])
    assert 0.92 <= share <= 0.99


def test_percentiles_of_four_styles_are_widened_by_t() -> None:
    some = cells(np.random.default_rng(5), 4)
    found = interval(some)
    assert found is not None
    scores = np.random.default_rng(6).integers(0, 4, (20000, 4))
    drawn = final_scores(some.values[0][scores], some.pictures[0][scores])
    factor = scipy.stats.t.ppf(0.975, 3) * math.sqrt(4 / 3) / 1.959964
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.low == pytest.approx(some.score - factor * (some.score - low), abs=0.01)
    assert found.high == pytest.approx(some.score + factor * (high - some.score), abs=0.01)


def test_seeds_alone_make_an_interval_too() -> None:
    """All styles alike, three seeds that are not: what is drawn within a style is seen."""
    some = cells(np.random.default_rng(12), 6, 3, spread=np.zeros((6, 6)), noise=0.0)
    assert (found := interval(some)) is not None
    assert found.high - found.low == pytest.approx(0.0)
    some.values[:, :, 1] += np.array([[-0.1], [0.0], [0.1]])
    assert (found := interval(some)) is not None
    assert found.low < some.score < found.high
    assert found.high - found.low > 0.02


def test_one_style_has_no_interval_and_no_test() -> None:
    rng = np.random.default_rng(7)
    assert interval(cells(rng, 1)) is None
    found = difference(cells(rng, 1, shift=0.1), cells(rng, 1))
    assert (found.interval, found.p_styles, found.p_cells, found.styles) == (None, None, None, 1)
    assert "6 are the least" in verdict(found.value, found.pairs, None, None, "x")


def test_a_known_difference_is_found_and_none_is_not() -> None:
    rng = np.random.default_rng(8)
    spread = rng.normal(size=(15, 6)) * SPREAD
    better = cells(rng, 15, 2, shift=0.06, spread=spread, noise=0.05)
    base = cells(rng, 15, 2, spread=spread, noise=0.05)
    found = difference(better, base)
    assert found.value == pytest.approx(better.score - base.score)
    assert found.interval is not None
    assert found.interval.low > 0
    assert found.p_styles is not None
    assert found.p_styles < 0.001
    expected = scipy.stats.wilcoxon(contributions(better).mean(0), contributions(base).mean(0)).pvalue
    assert found.p_styles == pytest.approx(expected)
    same = difference(base, base)
    assert (same.value, same.p_styles, same.p_cells) == (0.0, 1.0, 1.0)


def test_pairs_are_of_common_styles_only() -> None:
    rng = np.random.default_rng(9)
    some = cells(rng, 8)
    found = difference(some.of(["07", "01", "02"]), some.of(["01", "02", "03"]))
    assert (found.styles, found.value) == (2, 0.0)
    with pytest.raises(ValueError, match="no style in common"):
        difference(some.of(["00"]), some.of(["01"]))


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.1, 0.1, -0.1, 0.2, 0.2, 0.3],  # ties
        [0.0, 0.0, 0.1, -0.2, 0.3, 0.4],  # zeros
        [0.01 * i for i in range(-3, 20)],
    ],
)
def test_signed_rank_is_scipys_with_ties_and_zeros(values: list[float]) -> None:
    expected = scipy.stats.wilcoxon(values, zero_method="pratt").pvalue
    assert signed_rank_p(values) == pytest.approx(expected)


def test_five_pairs_are_never_significant_and_six_can_be() -> None:
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 2**5)
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)
    assert signed_rank_p([0.1]) is None


def test_holm_on_the_papers_scheme() -> None:
    """Smallest p times n, the next times n − 1, ...; never smaller than the one before, never above 1."""
    assert holm([0.01, 0.04, 0.03, None, 0.9]) == pytest.approx([0.04, 0.09, 0.09, None, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_five_percent_means_five_percent() -> None:
    """No difference but training noise: the tests of styles and of cells err in 5 %, one over pictures far oftener.

    A style's pictures share its adapter, so they are no separate witnesses.
    """
    rng = np.random.default_rng(10)
    trials, styles, seeds, prompts = 1500, 15, 2, 25
    adapter = rng.normal(size=(trials, 2, seeds, styles, 1))
    pictures = adapter + rng.normal(size=(trials, 2, seeds, styles, prompts))
    scores = pictures.mean(-1)
    cell = scores[:, 0] - scores[:, 1]
    rate = {
        "styles": _rate(cell.mean(1)),
        "cells": _rate(cell.reshape(trials, -1)),
        "pictures": _rate((pictures[:, 0] - pictures[:, 1]).reshape(trials, -1)),
    }
    assert 0.03 <= rate["styles"] <= 0.065
    assert 0.03 <= rate["cells"] <= 0.065
    assert rate["pictures"] > 0.3


def test_our_own_path_errs_in_five_percent() -> None:
    """The same through `difference`, with formula, FID shares and style effects that both recipes share."""
    rng = np.random.default_rng(11)
    wrong = []
    for _ in range(400):
        spread = rng.normal(size=(12, 6)) * SPREAD
        ours, theirs = (cells(rng, 12, 2, spread=spread) for _ in range(2))
        found = difference(ours, theirs, draws=1)
        wrong.append([(p or 1.0) < 0.05 for p in (found.p_styles, found.p_cells)])
    assert (np.mean(wrong, axis=0) < 0.08).all()
    assert (np.mean(wrong, axis=0) > 0.02).all()


def _rate(differences: Array) -> float:
    return float(np.mean(scipy.stats.wilcoxon(differences, axis=1, method="approx").pvalue < 0.05))


def test_words_follow_the_numbers() -> None:
    assert verdict(0.1, 15, 0.01, 0.01, "base") == "better than base, on new styles too"
    assert (
        verdict(-0.1, 15, 0.2, 0.01, "base") == "worse than base on these styles; whether on others is open"
    )
    assert verdict(0.1, 15, 0.2, 0.2, "base") == "may be luck"


def test_impossible_cells_are_refused() -> None:
    values = np.zeros((1, 2, 6))
    with pytest.raises(ValueError, match="2 styles"):
        Cells(("a", "b"), values, np.ones((2, 2)))
    values[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="finite"):
        Cells(("a", "b"), values, np.ones((1, 2)))
