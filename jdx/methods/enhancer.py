"""The VAE prompt enhancer (contest entry f-chen165/jittor--AI): a style's pictures as a bias of its text states.

The VAE posteriors of a style's references are averaged, a small convolution stack turns them into one number per
token and channel of the text states, and E' = E + weight · out. Its input is one constant per style, so what is
learnt is a bias on the token positions, structured like a picture.

The published program works for latents of 64 × 64 and states of 77 × 1024 only: the stride of 2 leaves 32 × 32
numbers per token, which happen to be 1024. Here the averaged latents are first resized to twice a grid of exactly
`width` cells (32 × 32 for 1024, 12 × 16 for 192), so any resolution meets any width; at 512 px that is the identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from jdx.methods.enhancer_form import EPS, Form, ZeroLayer, first_numbers

__all__ = ["Form", "ZeroLayer", "enhance", "features", "first_vector", "named", "unpack"]


def features(mean: Tensor, std: Tensor, form: Form) -> Tensor:
    """What the enhancer sees of a style, (2C, 2·rows, 2·columns): its averaged moments, deviation before mean.

    mean, std: unscaled VAE moments (pictures, C, h, w) of any size h × w.
    """
    rows, columns = form.grid
    average = torch.cat([std.mean(0), mean.mean(0)])[None]
    # Antialiased, so that a larger latent is averaged and not sampled; equal sizes come out bit for bit.
    return F.interpolate(average, (2 * rows, 2 * columns), mode="bilinear", antialias=True)[0]


def first_vector(form: Form, zero: ZeroLayer, seed: int, style: str) -> Tensor:
    """A style's parameters (P,) before training, float32: `first_numbers` as a tensor."""
    return torch.from_numpy(first_numbers(form, zero, seed, style))


def named(vector: Tensor, form: Form) -> dict[str, Tensor]:
    """One style's parameters (P,) by name, as views."""
    return {name: part[0] for name, part in unpack(vector[None], form).items()}


def unpack(flat: Tensor, form: Form) -> dict[str, Tensor]:
    """{name: (K, *shape)} of rows (K, P), as views."""
    parts = torch.split(flat, [math.prod(shape) for shape in form.shapes.values()], dim=1)
    return {name: part.view(-1, *form.shapes[name]) for name, part in zip(form.shapes, parts, strict=True)}


def enhance(flat: Tensor, seen: Tensor, form: Form) -> Tensor:
    """Outputs (K, tokens, width) of K enhancers side by side, not yet weighted.

    flat: (K, P), row k the parameters of style k. seen: (K, 2C, 2·rows, 2·columns), its `features`. Each layer is
    GroupNorm, SiLU, Conv 3 × 3 (the first with stride 2), all styles at once as groups of one convolution.
    """
    K, p = len(flat), unpack(flat, form)
    x = seen.reshape(1, -1, *seen.shape[2:])
    for place, groups in enumerate(form.groups, 1):
        x = F.silu(F.group_norm(x, K * groups, *_both(p, f"norm{place}"), EPS))
        x = F.conv2d(x, *_both(p, f"conv{place}"), stride=2 if place == 1 else 1, padding=1, groups=K)
    return x.view(K, form.tokens, form.width)


def _both(parameters: Mapping[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer, the styles' joined along the output channels."""
    return parameters[f"{layer}.weight"].flatten(0, 1), parameters[f"{layer}.bias"].flatten()
