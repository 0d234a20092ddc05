"""The layers that Stable Diffusion's networks are made of, as functions of frozen weights."""

from __future__ import annotations

from collections.abc import Callable

import jittor as jt
from jittor import nn

from jdx.backends.jittor.worker.nets.weights import Source


class Linear:
    """y = x Wᵀ + b; weight (d_out, d_in). `adapter`, where one is set, gets (x, y) and gives the changed y."""

    def __init__(self, source: Source, d_in: int, d_out: int, *, bias: bool = True):
        self.d_in, self.d_out = d_in, d_out
        self.weight = source.take("weight", d_out, d_in)
        self.bias = source.take("bias", d_out) if bias else None
        self.adapter: Callable[[jt.Var, jt.Var], jt.Var] | None = None
        source.register(self)

    def __call__(self, x: jt.Var) -> jt.Var:
        """x: (..., d_in); returns (..., d_out)."""
        y = nn.linear(x, self.weight, self.bias)
        return y if self.adapter is None else self.adapter(x, y)


class Conv:
    """A convolution with a square kernel over (N, C, H, W)."""

    def __init__(
        self, source: Source, c_in: int, c_out: int, kernel: int, *, stride: int = 1, padding: int = 0
    ):
        self.weight = source.take("weight", c_out, c_in, kernel, kernel)
        self.bias = source.take("bias", c_out)
        self.stride, self.padding = stride, padding
        source.register(self)

    def __call__(self, x: jt.Var) -> jt.Var:
        """x: (N, c_in, H, W)."""
        return nn.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class GroupNorm:
    """Group normalisation (Wu and He 2018) of (N, C, ...), the variance taken about the mean.

    Jittor's own takes E[x²] − E[x]², which loses a mean's square worth of digits (error 0.18 at |mean| / std = 100).
    """

    def __init__(self, source: Source, groups: int, channels: int, eps: float):
        self.weight, self.bias = source.take("weight", channels), source.take("bias", channels)
        self.groups, self.eps = groups, eps
        source.register(self)

    def __call__(self, x: jt.Var) -> jt.Var:
        """x: (N, C, ...), with any number of further axes."""
        N, C = x.shape[:2]
        # Rows first, then groups: one running float32 sum over a group of a large picture would lose digits.
        rows = x.reshape(N, self.groups, -1, x.shape[-1])
        rows = _standardised(rows, (3, 2), self.eps)
        affine = [1, C] + [1] * (x.ndim - 2)
        return rows.reshape(x.shape) * self.weight.reshape(affine) + self.bias.reshape(affine)


class LayerNorm:
    """Layer normalisation (Ba et al. 2016) over the last axis, in two passes as `GroupNorm`."""

    def __init__(self, source: Source, width: int, eps: float = 1e-5):
        self.weight, self.bias, self.eps = source.take("weight", width), source.take("bias", width), eps
        source.register(self)

    def __call__(self, x: jt.Var) -> jt.Var:
        """x: (..., width)."""
        return _standardised(x, (x.ndim - 1,), self.eps) * self.weight + self.bias


def _standardised(x: jt.Var, axes: tuple[int, ...], eps: float) -> jt.Var:
    """(x − μ) / √(σ² + ε) with μ and the biased σ² over `axes`, one after the other."""
    centred = x - _mean(x, axes)
    return centred / (_mean(centred * centred, axes) + eps).sqrt()


def _mean(x: jt.Var, axes: tuple[int, ...]) -> jt.Var:
    for axis in axes:
        x = x.mean(axis, keepdims=True)
    return x


def silu(x: jt.Var) -> jt.Var:
    """SiLU, x · σ(x) (Elfwing et al. 2018)."""
    return x * x.sigmoid()


def gelu(x: jt.Var) -> jt.Var:
    """GELU, x · Φ(x) (Hendrycks and Gimpel 2016), exact."""
    return nn.gelu(x)


def quick_gelu(x: jt.Var) -> jt.Var:
    """GELU roughly, x · σ(1.702 x), as in OpenAI's CLIP and hence Stable Diffusion 1.x."""
    return x * (1.702 * x).sigmoid()


def doubled(x: jt.Var) -> jt.Var:
    """(N, C, H, W) at twice the size, every pixel four times."""
    N, C, H, W = x.shape
    return x.reshape(N, C, H, 1, W, 1).broadcast([N, C, H, 2, W, 2]).reshape(N, C, 2 * H, 2 * W)


def resized(x: jt.Var, height: int, width: int) -> jt.Var:
    """(N, C, H, W) at another size, each pixel the nearest one's value as torch's interpolate rounds it."""
    N, C, H, W = x.shape
    if (height, width) == (2 * H, 2 * W):
        return doubled(x)
    return x.reindex([N, C, height, width], ["i0", "i1", f"i2*{H}/{height}", f"i3*{W}/{width}"])
