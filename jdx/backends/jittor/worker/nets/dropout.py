"""Dropout whose masks are functions of (sample, layer, position): the same entries as the torch backend drops."""

from __future__ import annotations

import jittor as jt
import numpy as np
import numpy.typing as npt


class KeyedDropout:
    """Dropout (Srivastava et al. 2014) on x with a mask hashed from a key per sample.

    p: the share of entries set to zero; the others are multiplied by 1 / (1 − p). Set `keys`, integers (N,) in
    [0, 2³²), before each pass over N samples; a layer adds its own salt.
    """

    def __init__(self, p: float):
        if not 0 <= p < 1:
            raise ValueError(f"dropout = {p}: expected 0 <= p < 1")
        self.p = p
        self.keys: npt.NDArray[np.int64] | None = None

    def __call__(self, x: jt.Var, salt: int) -> jt.Var:
        """x: (N, ...); returns x · mask / (1 − p)."""
        if self.keys is None or len(self.keys) != x.shape[0]:
            given = "no keys" if self.keys is None else f"{len(self.keys)} keys"
            raise ValueError(f"dropout has {given} for a batch of {x.shape[0]} samples")
        mask = keep(self.keys, salt, int(np.prod(x.shape[1:])), self.p)
        return x * mask.reshape(x.shape).float32() / (1 - self.p)


def keep(keys: npt.NDArray[np.int64], salt: int, size: int, p: float) -> jt.Var:
    """Boolean (N, size), True with probability 1 − p, from keys (N,) and a layer's salt."""
    place = mix(jt.array(np.arange(size, dtype=np.int32)))
    sample = mix(jt.array((np.asarray(keys, np.int64) ^ salt).astype(np.uint32).view(np.int32)))
    h = mix(place.reshape(1, -1) ^ sample.reshape(-1, 1))
    # h is unsigned in meaning and signed in type: with the top bit turned over, the order is that of [0, 2³²).
    return (h ^ (-(2**31))) >= int(p * 2**32) - 2**31


def mix(h: jt.Var) -> jt.Var:
    """A bijection of [0, 2³²) that spreads every input bit over all output bits ("lowbias32", C. Wellons 2018).

    int32 whose bits are the number's: Jittor has no unsigned products.
    """
    h = _fold(h, 16) * 0x7FEB352D
    h = _fold(h, 15) * (0x846CA68B - 2**32)
    return _fold(h, 16)


def _fold(h: jt.Var, bits: int) -> jt.Var:
    """The number h ^ (h >> bits), the shift filling with zeros as that of an unsigned number does."""
    return h ^ ((h >> bits) & (2 ** (32 - bits) - 1))
