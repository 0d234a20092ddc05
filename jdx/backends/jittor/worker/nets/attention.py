"""Attention in plain products, with a hook that reads or replaces what is compared.

Jittor has no fused attention: the logits are made whole, over as many queries at once as their memory allows.
"""

from __future__ import annotations

from collections.abc import Callable

import jittor as jt
from jittor import nn

from jdx.backends.jittor.worker.nets.layers import Linear
from jdx.backends.jittor.worker.nets.weights import Source

Hook = Callable[[jt.Var, jt.Var, jt.Var], tuple[jt.Var, jt.Var, jt.Var, float]]
"""(q, k, v), each (B, S, C) with the heads side by side in C -> what is compared instead, and a factor of the logits.

Jittor computes what is asked for: keys and values that a hook replaces are never made.
"""
LOGITS_AT_ONCE = 2**28
"""Entries of logits in one piece: 1 GiB."""


class Attention:
    """Multi-head attention (Vaswani et al. 2017) of x, or of x over a context, as diffusers' Attention has it."""

    def __init__(self, source: Source, width: int, context: int, heads: int, *, bias: bool = False):
        self.heads = heads
        self.hook: Hook | None = None
        self.to_q = Linear(source.below("to_q"), width, width, bias=bias)
        self.to_k = Linear(source.below("to_k"), context, width, bias=bias)
        self.to_v = Linear(source.below("to_v"), context, width, bias=bias)
        self.to_out = Linear(source.below("to_out", 0), width, width)
        source.register(self)

    def __call__(self, x: jt.Var, context: jt.Var | None = None) -> jt.Var:
        """x: (B, S, width); context: (B, S', its width), None = x itself."""
        seen = x if context is None else context
        q, k, v, factor = self.to_q(x), self.to_k(seen), self.to_v(seen), 1.0
        if self.hook is not None:
            q, k, v, factor = self.hook(q, k, v)
        return self.to_out(attend(q, k, v, self.heads, factor))


def attend(
    q: jt.Var, k: jt.Var, v: jt.Var, heads: int, factor: float = 1.0, mask: jt.Var | None = None
) -> jt.Var:
    """softmax(factor · q kᵀ / √d + mask) v of each head, d = C / heads.

    q: (B, S, C); k, v: (B, S', C), heads side by side in C; mask: (S, S'). Returns (B, S, C).
    """
    B, S, C = q.shape
    q_, k_, v_ = (_split(x, heads) for x in (q * (factor / (C // heads) ** 0.5), k, v))
    rows = S if mask is not None else max(1, LOGITS_AT_ONCE // (B * heads * k.shape[1]))
    parts = [_attend(q_[:, i : i + rows], k_, v_, mask) for i in range(0, S, rows)] if rows < S else []
    whole = jt.concat(parts, 1) if parts else _attend(q_, k_, v_, mask)
    return whole.reshape(B, heads, S, -1).permute(0, 2, 1, 3).reshape(B, S, C)


def _attend(q: jt.Var, k: jt.Var, v: jt.Var, mask: jt.Var | None) -> jt.Var:
    logits = nn.bmm_transpose(q, k)
    weights = nn.softmax(logits if mask is None else logits + mask, dim=-1)
    out = nn.bmm(weights, v)
    if jt.flags.no_grad:
        out.sync()  # now, so that the next piece's logits take the place of these
    return out


def _split(x: jt.Var, heads: int) -> jt.Var:
    """(B, S, C) as (B · heads, S, C / heads)."""
    B, S, C = x.shape
    return x.reshape(B, S, heads, C // heads).permute(0, 2, 1, 3).reshape(B * heads, S, C // heads)
