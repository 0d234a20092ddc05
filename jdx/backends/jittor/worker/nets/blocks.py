"""Blocks that UNet and autoencoder share: residual blocks, halving and doubling of the resolution."""

from __future__ import annotations

import jittor as jt
from jittor import nn

from jdx.backends.jittor.worker.nets.layers import Conv, GroupNorm, Linear, resized, silu
from jdx.backends.jittor.worker.nets.weights import Source


class Resnet:
    """Residual block (He et al. 2016) with two convolutions, told the time where there is one (diffusers')."""

    def __init__(self, source: Source, c_in: int, c_out: int, *, time: int | None, groups: int, eps: float):
        self.norm1 = GroupNorm(source.below("norm1"), groups, c_in, eps)
        self.conv1 = Conv(source.below("conv1"), c_in, c_out, 3, padding=1)
        self.time = None if time is None else Linear(source.below("time_emb_proj"), time, c_out)
        self.norm2 = GroupNorm(source.below("norm2"), groups, c_out, eps)
        self.conv2 = Conv(source.below("conv2"), c_out, c_out, 3, padding=1)
        self.shortcut = None if c_in == c_out else Conv(source.below("conv_shortcut"), c_in, c_out, 1)

    def __call__(self, x: jt.Var, time: jt.Var | None = None) -> jt.Var:
        """x: (N, c_in, H, W); time: (N, its width), already through SiLU."""
        h = self.conv1(silu(self.norm1(x)))
        if self.time is not None:
            h = h + self.time(time).reshape(x.shape[0], -1, 1, 1)
        h = self.conv2(silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class Halving:
    """A convolution of stride 2. padding 1 all around (UNet), or 0 with one row and column more at the far edges."""

    def __init__(self, source: Source, channels: int, *, padding: int):
        self.padding = padding
        self.conv = Conv(source.below("conv"), channels, channels, 3, stride=2, padding=padding)

    def __call__(self, x: jt.Var) -> jt.Var:
        """x: (N, C, H, W)."""
        return self.conv(x if self.padding else nn.pad(x, (0, 1, 0, 1)))


class Doubling:
    """Nearest pixels at a larger size, and a convolution."""

    def __init__(self, source: Source, channels: int):
        self.conv = Conv(source.below("conv"), channels, channels, 3, padding=1)

    def __call__(self, x: jt.Var, size: tuple[int, int] | None = None) -> jt.Var:
        """x: (N, C, H, W); size: (height, width), None = twice as large."""
        return self.conv(resized(x, *(size or (2 * x.shape[2], 2 * x.shape[3]))))
