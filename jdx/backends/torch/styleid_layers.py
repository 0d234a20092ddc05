"""StyleID inside a UNet: which self-attentions take part, and processors that read or replace inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from jdx.backends.attention_names import styleid_layers
from jdx.backends.torch.attention import heads, project, self_attentions
from jdx.methods.styleid import inject


def resolve_layers(unet: nn.Module, names: Sequence[str | int]) -> tuple[str, ...]:
    """Full paths of the named self-attentions, in the network's order; see `styleid_layers`."""
    return styleid_layers(list(self_attentions(unet)), names)


class Capture:
    """Plain self-attention that keeps the parts asked for until they are `taken`; the result is unchanged."""

    def __init__(self, parts: Sequence[str]):
        self.parts = tuple(parts)
        self.q: Tensor | None = None
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def __call__(self, attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        # Plain attributes: dynamo hands them out of a compiled pass like further results.
        if "q" in self.parts:
            self.q = q
        if "k" in self.parts:
            self.k = k
        if "v" in self.parts:
            self.v = v
        q, k, v = (heads(x, attn.heads) for x in (q, k, v))
        return project(attn, F.scaled_dot_product_attention(q, k, v))

    def taken(self) -> dict[str, Tensor]:
        """What the last pass met, (B, S, C) each; it is kept no longer."""
        met = {part: getattr(self, part) for part in self.parts}
        self.q = self.k = self.v = None
        return met


class Inject:
    """Self-attention with StyleID's queries, keys and values; its own keys and values are never computed.

    q, k, v: the content's query and the style's key and value, (B, S, C), to be set before each pass. gamma and
    temperature: numbers, or tensors () on the device, which compiled code does not take for constants.
    """

    def __init__(self, gamma: float | Tensor, temperature: float | Tensor):
        self.gamma, self.temperature = gamma, temperature
        self.q: Tensor | None = None
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def __call__(self, attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        assert self.q is not None
        assert self.k is not None
        assert self.v is not None
        q_c, k_s, v_s = (heads(x, attn.heads) for x in (self.q, self.k, self.v))
        q = heads(attn.to_q(hidden_states), attn.heads)
        return project(attn, inject(q_c, q, k_s, v_s, self.gamma, self.temperature))
