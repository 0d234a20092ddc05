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
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from jdx import draws

ZeroLayer = Literal["first", "last"]
"""The convolution that starts at zero. With "first", as published, the first output is a constant of the later
biases, and the first norm's gradient is divided by √1e-5; with "last" the first output is exactly zero."""
EPS = 1e-5  # of the group norms, in Jittor as in PyTorch


@dataclass(frozen=True)
class Form:
    """Sizes of an enhancer: latent channels C, and the text states' tokens and width."""

    channels: int
    tokens: int
    width: int

    def __post_init__(self) -> None:
        if self.channels < 1 or self.tokens < 4 or self.width < 1:
            raise ValueError(
                f"no enhancer has the sizes {self}: at least 1 channel, 4 tokens and a width of 1"
            )

    @property
    def hidden(self) -> int:
        """Channels between the convolutions: half the tokens, made even (38 for 77, as published)."""
        return 2 * (self.tokens // 4)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns with rows · columns = width, as nearly square as the divisors allow."""
        rows = next(n for n in range(math.isqrt(self.width), 0, -1) if self.width % n == 0)
        return rows, self.width // rows

    @property
    def groups(self) -> tuple[int, int, int]:
        """Groups of the three norms: 4, 19 and 2 for 4 latent channels and 77 tokens."""
        return math.gcd(4, 2 * self.channels), self.hidden // 2, 2

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameters by name, in the order of a style's vector."""
        wide, hidden = 2 * self.channels, self.hidden
        found: dict[str, tuple[int, ...]] = {}
        for place, (d_in, d_out) in enumerate(((wide, hidden), (hidden, hidden), (hidden, self.tokens)), 1):
            found |= {f"norm{place}.weight": (d_in,), f"norm{place}.bias": (d_in,)}
            found |= {f"conv{place}.weight": (d_out, d_in, 3, 3), f"conv{place}.bias": (d_out,)}
        return found

    @property
    def size(self) -> int:
        """P, the number of parameters: 42,387 for SD 2.1."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """One style's parameters (P,) by name, as views."""
        return {name: part[0] for name, part in unpack(vector[None], self).items()}


def features(mean: Tensor, std: Tensor, form: Form) -> Tensor:
    """What the enhancer sees of a style, (2C, 2·rows, 2·columns): its averaged moments, deviation before mean.

    mean, std: unscaled VAE moments (pictures, C, h, w) of any size h × w.
    """
    rows, columns = form.grid
    average = torch.cat([std.mean(0), mean.mean(0)])[None]
    # Antialiased, so that a larger latent is averaged and not sampled; equal sizes come out bit for bit.
    return F.interpolate(average, (2 * rows, 2 * columns), mode="bilinear", antialias=True)[0]


def first_vector(form: Form, zero: ZeroLayer, seed: int, style: str) -> Tensor:
    """A style's parameters (P,) before training, float32, from draws of its own name.

    PyTorch's and Jittor's start: convolutions uniform within ±1/√fan_in, norms the identity, one layer zero.
    """
    parts = []
    for name, shape in form.shapes.items():
        layer, kind = name.split(".")
        if layer == {"first": "conv1", "last": "conv3"}[zero]:
            parts.append(torch.zeros(math.prod(shape)))
        elif layer.startswith("norm"):
            parts.append(torch.full(shape, float(kind == "weight")))
        else:
            bound = 1 / math.sqrt(math.prod(form.shapes[f"{layer}.weight"][1:]))
            numbers = draws.generator(seed, style, name, "enhancer").uniform(-bound, bound, math.prod(shape))
            parts.append(torch.from_numpy(numbers).float())
    return torch.cat(parts)


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
