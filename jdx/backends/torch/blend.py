"""StyleBlend (Chen et al. 2025) inside a UNet: two branches in one batch, which differ in weights and text.

Rows of a pass: halves of classifier-free guidance, then the branches (coarse, fine), then the pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdx.backends import attention_names
from jdx.backends.base import BlendSpec
from jdx.backends.torch.attention import (
    Processor,
    heads,
    processors,
    project,
    self_attentions,
)
from jdx.errors import ConfigError, Fault
from jdx.methods.blend import COARSE, FINE, blend, blended_steps


def blend_layers(unet: nn.Module, names: Sequence[str], direction: str) -> tuple[str, ...]:
    """Full paths of the self-attentions of one direction, "c2f" or "f2c"; see `attention_names.blend_layers`."""
    return attention_names.blend_layers(list(self_attentions(unet)), names, direction)


def blend_faults(unet: nn.Module, layers: Mapping[str, Sequence[str]]) -> list[Fault]:
    """Unknown layers of the directions, keys `blend.DIRECTION.layers`."""
    faults: list[Fault] = []
    for direction, names in layers.items():
        try:
            blend_layers(unet, names, direction)
        except ConfigError as error:
            faults += error.faults
    return faults


class Blend:
    """Self-attention whose branches lend each other queries, or keys and values. halves: 2 with guidance."""

    def __init__(self, halves: int, *, coarse_to_fine: bool, fine_to_coarse: bool):
        self.halves, self.directions = halves, (coarse_to_fine, fine_to_coarse)

    def __call__(self, attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        q, k, v = (
            layer(hidden_states).unflatten(0, (self.halves, 2, -1))
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        c2f, f2c = self.directions
        lent = blend(q, k, v, coarse_to_fine=c2f, fine_to_coarse=f2c)
        q, k, v = (heads(x.flatten(0, 2), attn.heads) for x in lent)
        return project(attn, F.scaled_dot_product_attention(q, k, v))


class Blending:
    """Which layers blend at which of a drawing's steps; call it with a step's number, and draw inside."""

    def __init__(self, unet: nn.Module, spec: BlendSpec, steps: int, halves: int):
        self.unet, self.halves = unet, halves
        self.c2f = blend_layers(unet, spec.c2f_layers, "c2f")
        self.f2c = blend_layers(unet, spec.f2c_layers, "f2c")
        self.c2f_steps = blended_steps(spec.c2f_share, steps)
        self.f2c_steps = blended_steps(spec.f2c_share, steps)

    def __call__(self, step: int) -> AbstractContextManager[None]:
        c2f = self.c2f if step < self.c2f_steps else ()
        f2c = self.f2c if step < self.f2c_steps else ()
        replaced: dict[str, Processor] = {
            path: Blend(self.halves, coarse_to_fine=path in c2f, fine_to_coarse=path in f2c)
            for path in (*c2f, *f2c)
        }
        return processors(self.unet, replaced)


@contextmanager
def branch_weights(unet: nn.Module, coarse: Mapping[str, Tensor], halves: int) -> Iterator[None]:
    """Inside the block the rows of the coarse branch see these weights, {path of a linear layer: weight}.

    The fine branch's rows see the layers' own. Paths and weights of the network stay as they are.
    """
    layers = {path: cast(nn.Linear, unet.get_submodule(path)) for path in coarse}
    for path, layer in layers.items():
        object.__setattr__(layer, "forward", partial(_branched, layer, coarse[path], halves))
    try:
        yield
    finally:
        for layer in layers.values():
            object.__delattr__(layer, "forward")


def _branched(layer: nn.Linear, coarse: Tensor, halves: int, x: Tensor) -> Tensor:
    rows = x.reshape(halves, 2, -1, *x.shape[1:])
    weights: Sequence[tuple[int, Tensor]] = ((COARSE, coarse), (FINE, layer.weight))
    parts = [F.linear(rows[:, branch], weight, layer.bias) for branch, weight in weights]
    return torch.stack(parts, dim=1).flatten(0, 2)
