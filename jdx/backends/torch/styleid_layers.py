"""StyleID inside a UNet: which self-attentions take part, and processors that read or replace inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from jdx.errors import ConfigError, Fault
from jdx.methods.styleid import inject

Parts = Mapping[str, Tensor]
"""Inputs of one self-attention, "q", "k", "v": (B, S, C), heads side by side in C."""


class Processor(Protocol):
    """What diffusers calls instead of an attention's own arithmetic."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor: ...


def self_attentions(unet: nn.Module) -> dict[str, Any]:
    """The self-attentions of a UNet's transformer blocks by module path, in the network's order."""
    from diffusers.models.attention_processor import Attention

    found = unet.named_modules()
    return {
        p: m
        for p, m in found
        if isinstance(m, Attention) and p.endswith(".attn1") and not m.is_cross_attention
    }


def resolve_layers(unet: nn.Module, names: Sequence[str | int]) -> tuple[str, ...]:
    """Full module paths of the named self-attentions, in the network's order, each once.

    A name is a path (`up_blocks.2.attentions.1.transformer_blocks.0.attn1`), the beginning of one
    (`up_blocks.2.attentions.1`, `up_blocks.2`: all below it), or the authors' number of a decoder slot,
    i = `up_blocks[i // 3].attentions[i % 3]`, as an integer or its digits (6 to 11 in the paper, 7 to 11
    in their program for diffusers).

    Raises: ConfigError naming every unknown layer and all that there are.
    """
    paths = list(self_attentions(unet))
    prefixes = {name: _prefix(name) for name in names}
    unknown = [str(n) for n, prefix in prefixes.items() if not any(_below(p, prefix) for p in paths)]
    if unknown or not names:
        raise ConfigError([Fault("layers", ", ".join(unknown), _valid(paths))], "StyleID settings")
    return tuple(p for p in paths if any(_below(p, prefix) for prefix in prefixes.values()))


def _prefix(name: str | int) -> str:
    text = str(name)
    if not text.isdecimal():
        return text
    block, slot = divmod(int(text), 3)
    return f"up_blocks.{block}.attentions.{slot}"


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + ".")


def _valid(paths: Sequence[str]) -> str:
    shorts = list(dict.fromkeys(path.split(".transformer_blocks.")[0] for path in paths))
    numbers = [str(i) for i in range(64) if _prefix(i) in shorts]
    return f"name at least one of {', '.join(shorts)}; or by number: {', '.join(numbers) or 'none here'}"


class Capture:
    """Plain self-attention that hands the parts asked for to `sink`; the result is unchanged."""

    def __init__(self, parts: Sequence[str], sink: Callable[[Parts], None]):
        self.parts, self.sink = tuple(parts), sink

    def __call__(self, attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        inputs = {"q": attn.to_q(hidden_states), "k": attn.to_k(hidden_states), "v": attn.to_v(hidden_states)}
        self.sink({part: inputs[part] for part in self.parts})
        q, k, v = (_heads(x, attn.heads) for x in inputs.values())
        return _project(attn, F.scaled_dot_product_attention(q, k, v))


class Inject:
    """Self-attention with StyleID's queries, keys and values; its own keys and values are never computed.

    source() gives the content's "q" and the style's "k" and "v", each (B, S, C), for the pass under way.
    """

    def __init__(self, source: Callable[[], Parts], gamma: float, temperature: float):
        self.source, self.gamma, self.temperature = source, gamma, temperature

    def __call__(self, attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        given = self.source()
        q_c, k_s, v_s = (_heads(given[part], attn.heads) for part in "qkv")
        q = _heads(attn.to_q(hidden_states), attn.heads)
        return _project(attn, inject(q_c, q, k_s, v_s, self.gamma, self.temperature))


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


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, S, C) as (B, heads, S, C / heads), a view."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _project(attn: Any, x: Tensor) -> Tensor:
    """The attention's output layer on (B, heads, S, d). Dropout (`to_out[1]`) is off in a frozen network.

    Blocks of Stable Diffusion 1.x and 2.x add the residual outside, and their self-attentions have no norms.
    """
    out: Tensor = attn.to_out[0](x.transpose(1, 2).flatten(2))
    return out
