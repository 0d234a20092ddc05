"""DoRA (Liu et al. 2024): a weight's change split into directions, which a LoRA turns, and lengths, trained apart.

W' = m · (W + ΔW) / ‖W + ΔW‖, one length per row of W (per output). As in the paper's section 4.3 and in PEFT, the norm
is a constant of the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squares(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """‖W‖² of each row of W (d_out, d_in): (d_out,) in `dtype`."""
    return weight.detach().to(dtype).square().sum(dim=1)


@torch.no_grad()
def norms(weight: Tensor, squared: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """‖W + ΔW_k‖ of each row, (K, d_out), for ΔW_kᵀ = a_k b_k; a (K, d_in, r), b (K, r, d_out) with the scale in it.

    Expanded as ‖W‖² + 2⟨W, ΔW⟩ + ‖ΔW‖², so that no ΔW is ever made: K of them would be K copies of the network.
    squared: `squares(weight)`. Computed in a's precision; never zero, as it is divided by.
    """
    up = b.transpose(1, 2)  # (K, d_out, r)
    cross = ((weight.to(a.dtype) @ a) * up).sum(dim=2)
    change = ((up @ (a.transpose(1, 2) @ a)) * up).sum(dim=2)
    total = squared.to(a.dtype) + 2 * cross + change
    return total.clamp_min(torch.finfo(a.dtype).tiny).sqrt()
