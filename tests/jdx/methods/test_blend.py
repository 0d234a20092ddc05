"""Feature blending against the authors' rule, written out row by row."""

import pytest
import torch

from jdx.methods.blend import blend, blended_steps

# Rows of the authors' program: negative coarse, negative fine, coarse, fine. Their assignments:
# query[[1, 3]] = query[[2, 2]]; key[[0, 2]] = key[[3, 3]]; value[[0, 2]] = value[[3, 3]].


@pytest.mark.parametrize("c2f", [False, True])
@pytest.mark.parametrize("f2c", [False, True])
def test_rows_are_lent_as_in_the_authors_program(c2f: bool, f2c: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    n = 3
    q, k, v = (torch.randn(2, 2, n, 5, 4, generator=generator) for _ in range(3))
    made = blend(q, k, v, coarse_to_fine=c2f, fine_to_coarse=f2c)
    for i in range(n):
        rows = [x[:, :, i].reshape(4, 5, 4).clone() for x in (q, k, v)]
        if c2f:
            rows[0][[1, 3]] = rows[0][[2, 2]]
        if f2c:
            rows[1][[0, 2]] = rows[1][[3, 3]]
            rows[2][[0, 2]] = rows[2][[3, 3]]
        for x, want in zip(made, rows, strict=True):
            assert torch.equal(x[:, :, i].reshape(4, 5, 4), want)


def test_without_guidance_the_only_half_lends() -> None:
    q = torch.arange(4.0).view(1, 2, 2, 1, 1)
    made, k, v = blend(q, q, q, coarse_to_fine=True, fine_to_coarse=True)
    assert made.flatten().tolist() == [0, 1, 0, 1]
    assert k.flatten().tolist() == v.flatten().tolist() == [2, 3, 2, 3]


def test_nothing_given_is_changed() -> None:
    q = torch.randn(2, 2, 1, 2, 2)
    before = q.clone()
    blend(q, q, q, coarse_to_fine=True, fine_to_coarse=True)
    assert torch.equal(q, before)


@pytest.mark.parametrize(
    ("share", "steps", "want"),
    [(0.8, 30, 24), (0.6, 30, 18), (0.9, 30, 27), (0.0, 30, 0), (1.0, 7, 7), (0.29, 100, 29), (0.5, 3, 1)],
)
def test_blended_steps(share: float, steps: int, want: int) -> None:
    assert blended_steps(share, steps) == want
