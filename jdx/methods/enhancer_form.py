"""Sizes and first parameters of the VAE prompt enhancer (see jdx/methods/enhancer.py), without any framework."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

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


def first_numbers(form: Form, zero: ZeroLayer, seed: int, style: str) -> npt.NDArray[np.float32]:
    """A style's parameters (P,) before training, from draws of its own name.

    PyTorch's and Jittor's start: convolutions uniform within ±1/√fan_in, norms the identity, one layer zero.
    """
    parts = []
    for name, shape in form.shapes.items():
        layer, kind = name.split(".")
        if layer == {"first": "conv1", "last": "conv3"}[zero]:
            parts.append(np.zeros(math.prod(shape)))
        elif layer.startswith("norm"):
            parts.append(np.full(shape, float(kind == "weight")))
        else:
            bound = 1 / math.sqrt(math.prod(form.shapes[f"{layer}.weight"][1:]))
            size = math.prod(shape)
            parts.append(draws.generator(seed, style, name, "enhancer").uniform(-bound, bound, size))
    return np.concatenate(parts).astype(np.float32)
