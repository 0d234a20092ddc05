"""StyleID inside a UNet: which self-attentions take part, and processors that read or replace inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from jdx.backends.attention_names import styleid_layers
from jdx.backends.torch.attention import Parts, heads, project, self_attentions
from jdx.methods.styleid import inject


def resolve_layers(unet: nn.Module, names: Sequence[str | int]) -> tuple[str, ...]:
    """Full paths of the named self-attentions, in the network's order; see `styleid_layers`."""
    return styleid_layers(list(self_attentions(unet)), names)


class Capture:
    """Plain self-attention that hands the parts asked for to `sink`; the result is unchanged."""

    def __init__(self, parts: Sequence[str], sink: Callable[[Parts], None]):
        self.parts, self.sink = tuple(parts), sink

    def __call__(self, attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        inputs = {"q": attn.to_q(hidden_states), "k": attn.to_k(hidden_states), "v": attn.to_v(hidden_states)}
        self.sink({part: inputs[part] for part in self.parts})
        q, k, v = (heads(x, attn.heads) for x in inputs.values())
        return project(attn, F.scaled_dot_product_attention(q, k, v))


class Inject:
    """Self-attention with StyleID's queries, keys and values; its own keys and values are never computed.

    source() gives the content's "q" and the style's "k" and "v", each (B, S, C), for the pass under way.
    """

    def __init__(self, source: Callable[[], Parts], gamma: float, temperature: float):
        self.source, self.gamma, self.temperature = source, gamma, temperature

    def __call__(self, attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        given = self.source()
        q_c, k_s, v_s = (heads(given[part], attn.heads) for part in "qkv")
        q = heads(attn.to_q(hidden_states), attn.heads)
        return project(attn, inject(q_c, q, k_s, v_s, self.gamma, self.temperature))
