"""StyleBlend's feature blending (Chen et al. 2025, "StyleBlend", section 3.3): pure functions of tensors.

Two branches draw the same picture from the same noise: the coarse one knows the style's composition, the fine one
its texture. In some self-attentions the coarse branch lends its queries to the fine one (c2f: where things are), in
others the fine branch lends its keys and values to the coarse one (f2c: what they are made of).
"""

from __future__ import annotations

import torch
from torch import Tensor

COARSE, FINE = 0, 1
"""Places of the branches on the branch axis."""


def blend(
    q: Tensor, k: Tensor, v: Tensor, *, coarse_to_fine: bool, fine_to_coarse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of one self-attention after the branches have lent them to each other.

    q, k, v: (G, 2, n, S, C): G the halves of classifier-free guidance, the conditional one last (1 without
    guidance), then the branches, then the pictures. What is lent comes from the lender's conditional half and
    goes to both halves of the borrower, as in the authors' program.
    """
    if coarse_to_fine:
        q = _lent(q, COARSE)
    if fine_to_coarse:
        k, v = _lent(k, FINE), _lent(v, FINE)
    return q, k, v


def _lent(x: Tensor, lender: int) -> Tensor:
    """X with the other branch's part replaced by the lender's conditional one."""
    gift = x[-1, lender].expand_as(x[:, lender])
    branches = (x[:, COARSE], gift) if lender == COARSE else (gift, x[:, FINE])
    return torch.stack(branches, dim=1)


def blended_steps(share: float, steps: int) -> int:
    """How many of the first steps blend: the whole number in share · steps, and 0.29 · 100 is 29."""
    return int(share * steps + 1e-9)
