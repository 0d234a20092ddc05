"""Self-attentions of a UNet by name, and processors in their place for a while; StyleID and StyleBlend use these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from jdx.backends.attention_names import in_order_of_pass

Parts = Mapping[str, Tensor]
"""Inputs of one self-attention, "q", "k", "v": (B, S, C), heads side by side in C."""


class Processor(Protocol):
    """What diffusers calls instead of an attention's own arithmetic."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor: ...


def self_attentions(unet: nn.Module) -> dict[str, Any]:
    """The self-attentions of a UNet's transformer blocks by module path, in the order of the pass."""
    from diffusers.models.attention_processor import Attention

    found = {
        p: m
        for p, m in unet.named_modules()
        if isinstance(m, Attention) and p.endswith(".attn1") and not m.is_cross_attention
    }
    return in_order_of_pass(found)


@contextmanager
def processors(unet: nn.Module, replaced: Mapping[str, Processor]) -> Iterator[None]:
    """Attention processors by module path, put back at the end."""
    layers: dict[str, Any] = {path: unet.get_submodule(path) for path in replaced}
    originals = {path: layer.processor for path, layer in layers.items()}
    for path, layer in layers.items():
        layer.set_processor(replaced[path])
    try:
        yield
    finally:
        for path, layer in layers.items():
            layer.set_processor(originals[path])


def heads(x: Tensor, count: int) -> Tensor:
    """(B, S, C) as (B, heads, S, C / heads), a view where it can be."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def project(attn: Any, x: Tensor) -> Tensor:
    """The attention's output layer on (B, heads, S, d). Dropout (`to_out[1]`) is off in a frozen network.

    Blocks of Stable Diffusion 1.x and 2.x add the residual outside, and their self-attentions have no norms.
    """
    out: Tensor = attn.to_out[0](x.transpose(1, 2).flatten(2))
    return out
