"""Dropout whose masks are functions of (sample, layer, position), never of the company in the batch."""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF


class KeyedDropout:
    """Dropout (Srivastava et al. 2014) on x with a mask hashed from a key per sample.

    p: the share of entries set to zero; the others are multiplied by 1 / (1 − p). Set `keys`, int64 (N,) in
    [0, 2³²), before each pass over N samples; a layer adds its own salt. Only integer arithmetic decides,
    so a CPU and a GPU drop the same entries.
    """

    def __init__(self, p: float):
        if not 0 <= p < 1:
            raise ValueError(f"dropout = {p}: expected 0 <= p < 1")
        self.p = p
        self.keys: Tensor | None = None

    def __call__(self, x: Tensor, salt: int) -> Tensor:
        """x: (N, ...); returns x · mask / (1 − p)."""
        if self.keys is None or self.keys.shape[0] != x.shape[0]:
            given = "no keys" if self.keys is None else f"{self.keys.shape[0]} keys"
            raise ValueError(f"dropout has {given} for a batch of {x.shape[0]} samples")
        return x * keep(self.keys, salt, x[0].numel(), self.p).view(x.shape).to(x.dtype) / (1 - self.p)


def keep(keys: Tensor, salt: int, size: int, p: float) -> Tensor:
    """Boolean (N, size), True with probability 1 − p, from keys (N,) and a layer's salt."""
    place = mix(torch.arange(size, device=keys.device))
    sample = mix(keys ^ salt)
    return mix(place[None, :] ^ sample[:, None]) >= int(p * 2**32)


def mix(h: Tensor) -> Tensor:
    """A bijection of [0, 2³²) that spreads every input bit over all output bits ("lowbias32", C. Wellons
    2018).

    int64 in and out; products wrap modulo 2⁶⁴, which leaves their low 32 bits right.
    """
    h = h ^ (h >> 16)
    h = (h * 0x7FEB352D) & _LOW
    h = h ^ (h >> 15)
    h = (h * 0x846CA68B) & _LOW
    return h ^ (h >> 16)
