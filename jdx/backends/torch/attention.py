"""Self-attentions of a UNet by name, and processors in their place for a while; StyleID and StyleBlend use these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from jdx.errors import ConfigError, Fault

Parts = Mapping[str, Tensor]
"""Inputs of one self-attention, "q", "k", "v": (B, S, C), heads side by side in C."""
STAGES = ("down_blocks", "mid_block", "up_blocks")
"""In the order of the pass; diffusers registers the middle last."""


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
    return dict(sorted(found.items(), key=lambda item: STAGES.index(item[0].split(".")[0])))


def named_layers(
    paths: Sequence[str], names: Sequence[str | int], numbers: Mapping[str, str], key: str, what: str
) -> tuple[str, ...]:
    """Full paths of the named layers, in the order of `paths`, each once.

    A name is a path, the beginning of one (all below it), or a number of `numbers`, {digits: path or beginning},
    given as an integer or its digits.

    Raises: ConfigError, key `key`, naming every unknown layer and all that there are.
    """
    prefixes = {name: numbers.get(str(name), str(name)) for name in names}
    unknown = [str(n) for n, prefix in prefixes.items() if not any(_below(p, prefix) for p in paths)]
    if unknown or not names:
        raise ConfigError([Fault(key, ", ".join(unknown), _valid(paths, numbers))], what)
    return tuple(p for p in paths if any(_below(p, prefix) for prefix in prefixes.values()))


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + ".")


def short(path: str) -> str:
    """A self-attention's place without the inner names: `up_blocks.2.attentions.1`."""
    return path.split(".transformer_blocks.")[0]


def _valid(paths: Sequence[str], numbers: Mapping[str, str]) -> str:
    shorts = list(dict.fromkeys(short(path) for path in paths))
    known = [number for number, prefix in numbers.items() if any(_below(p, prefix) for p in paths)]
    return f"name at least one of {', '.join(shorts)}; or by number: {', '.join(known) or 'none here'}"


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
