"""Dropout masks: right share, no structure, independent of the company."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from jdx.backends.torch.dropout import KeyedDropout, keep, mix


def test_masks_depend_on_the_sample_and_the_layer_alone() -> None:
    keys = torch.tensor([5, 17, 4294967295])
    whole = keep(keys, 99, 1000, 0.3)
    assert torch.equal(keep(keys[[2, 0]], 99, 1000, 0.3), whole[[2, 0]])
    assert torch.equal(keep(keys, 99, 400, 0.3), whole[:, :400])
    assert not torch.equal(keep(keys, 98, 1000, 0.3), whole)


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_dropped_counts_are_binomial(p: float) -> None:
    # 2,000 consecutive keys (the worst case for a hash), 256 entries each, against the exact distribution.
    dropped = (~keep(torch.arange(2000), 12345, 256, p)).sum(dim=1).numpy()
    edges = stats.binom(256, p).ppf([0.2, 0.4, 0.6, 0.8])
    seen = [(dropped <= edge).mean() for edge in edges]
    assert seen == pytest.approx(stats.binom(256, p).cdf(edges), abs=0.05)
    assert dropped.mean() == pytest.approx(256 * p, rel=0.03)


def test_masks_of_neighbouring_samples_layers_and_entries_are_uncorrelated() -> None:
    masks = keep(torch.arange(50), 7, 4000, 0.5).double() - 0.5
    other = keep(torch.arange(50), 8, 4000, 0.5).double() - 0.5
    pairs = [(masks[:-1], masks[1:]), (masks, other), (masks[:, :-1], masks[:, 1:])]
    assert all(abs((x * y).mean().item()) * 4 < 0.01 for x, y in pairs)


def test_mix_is_the_published_hash() -> None:
    # lowbias32 written as its author does, in 32-bit unsigned arithmetic.
    def lowbias32(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ x >> 16

    values = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xDEADBEEF, 2**32 - 1]
    signed = torch.tensor(values).sub(2**32).where(torch.tensor(values) >= 2**31, torch.tensor(values))
    assert [h % 2**32 for h in mix(signed.int()).tolist()] == [lowbias32(x) for x in values]
    # The masks: h(h(place) ^ h(key ^ salt)) against the share of 2³² that is dropped.
    kept = keep(torch.tensor([7, 2**32 - 1]), 0x9ABCDEF0, 500, 0.3)
    for row, key in zip(kept.tolist(), (7, 2**32 - 1), strict=True):
        hashes = (lowbias32(lowbias32(place) ^ lowbias32(key ^ 0x9ABCDEF0)) for place in range(500))
        assert row == [h >= int(0.3 * 2**32) for h in hashes]


def test_kept_entries_are_scaled_and_keys_must_match_the_batch() -> None:
    dropout = KeyedDropout(0.25)
    x = torch.ones(2, 3, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match="no keys for a batch of 2"):
        dropout(x, 0)
    dropout.keys = torch.tensor([1, 2])
    assert set(dropout(x, 0).flatten().tolist()) == {0.0, 1 / 0.75}
    with pytest.raises(ValueError, match="0 <= p < 1"):
        KeyedDropout(1.0)
