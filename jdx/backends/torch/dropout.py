"""Dropout whose masks are functions of (sample, layer, position), never of the company in the batch."""

from __future__ import annotations

import torch
from torch import Tensor

BYTES_AN_ENTRY = 12
"""Memory at once while a mask is made: two int32 in `mix`, and the mask in the precision of x beside them."""


class KeyedDropout:
    """Dropout (Srivastava et al. 2014) on x with a mask hashed from a key per sample.

    p: the share of entries set to zero; the others are multiplied by 1 / (1 − p). Set `keys`, int64 (N,) in
    [0, 2³²), before each pass over N samples; a layer adds its own salt. Only integer arithmetic decides,
    so a CPU and a GPU drop the same entries. `widest` is the largest number of entries of one sample seen so far:
    what a mask takes while it is made is BYTES_AN_ENTRY times that, and no tensor that autograd keeps.
    """

    def __init__(self, p: float):
        if not 0 <= p < 1:
            raise ValueError(f"dropout = {p}: expected 0 <= p < 1")
        self.p = p
        self.keys: Tensor | None = None
        self.widest = 0

    def __call__(self, x: Tensor, salt: int | Tensor) -> Tensor:
        """x: (N, ...); salt: in [0, 2³²); returns x · mask / (1 − p)."""
        if self.keys is None or self.keys.shape[0] != x.shape[0]:
            given = "no keys" if self.keys is None else f"{self.keys.shape[0]} keys"
            raise ValueError(f"dropout has {given} for a batch of {x.shape[0]} samples")
        if not torch.compiler.is_compiling():  # a compiled pass would be bound to the number
            self.widest = max(self.widest, x[0].numel())
        return x * keep(self.keys, salt, x[0].numel(), self.p).view(x.shape).to(x.dtype) / (1 - self.p)


def keep(keys: Tensor, salt: int | Tensor, size: int, p: float) -> Tensor:
    """Boolean (N, size), True with probability 1 − p, from keys (N,) and a layer's salt."""
    # As int32 from the start: inductor counts in int32, where the subtraction of `_int32` overflows.
    place = mix(torch.arange(size, device=keys.device, dtype=torch.int32))
    sample = mix(_int32(keys ^ salt))
    h = mix(place[None, :] ^ sample[:, None])
    # h is unsigned in meaning and signed in type: with the top bit turned over, the order is that of [0, 2³²).
    return h.bitwise_xor_(-(2**31)) >= int(p * 2**32) - 2**31


def mix(h: Tensor) -> Tensor:
    """A bijection of [0, 2³²) that spreads every input bit over all output bits ("lowbias32", C. Wellons
    2018).

    int32 whose bits are the number's, changed in place and returned; products wrap modulo 2³².
    """
    _fold(h, 16)
    h.mul_(0x7FEB352D)
    _fold(h, 15)
    h.mul_(0x846CA68B - 2**32)
    return _fold(h, 16)


def _fold(h: Tensor, bits: int) -> Tensor:
    """H ^ (h >> bits) in place, the shift filling with zeros as that of an unsigned number does."""
    return h.bitwise_xor_((h >> bits).bitwise_and_(2 ** (32 - bits) - 1))


def _int32(numbers: Tensor) -> Tensor:
    """Numbers in [0, 2³²) of int64 as the int32 with the same bits."""
    return torch.where(numbers < 2**31, numbers, numbers - 2**32).to(torch.int32)
