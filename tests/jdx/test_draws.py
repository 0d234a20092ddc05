"""Draws are functions of their names."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from jdx import draws


def test_equal_names_give_equal_numbers_in_another_process() -> None:
    here = draws.normal((4,), 7, "00", 3, "noise")
    code = "from jdx import draws; print(draws.normal((4,), 7, '00', 3, 'noise').tobytes().hex())"
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert here.tobytes().hex() == there


@pytest.mark.parametrize("other", [(1, "23"), (12, 3), ("1", 23), (1, 23, 0), (1, 2, 3)])
def test_different_names_give_different_numbers(other: tuple[str | int, ...]) -> None:
    assert not np.array_equal(draws.normal((8,), 1, 23), draws.normal((8,), *other))


def test_draws_of_neighbouring_steps_are_standard_normal_and_uncorrelated() -> None:
    noise = np.stack([draws.normal((2000,), 0, "style", step, "noise") for step in range(20)])
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    off_diagonal = np.asarray(np.corrcoef(noise))[~np.eye(20, dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.1  # 4.5 standard errors at 2,000 numbers


def test_every_epoch_of_a_walk_visits_each_item_once() -> None:
    walk = [draws.visit(7, position, 3, "order") for position in range(28)]
    epochs = [walk[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_picture_seeds_differ_by_prompt_and_style() -> None:
    seeds = {draws.picture_seed(42, style, prompt) for style in ("00", "01") for prompt in ("Cat", "Dog")}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)
