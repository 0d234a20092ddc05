"""Group norm with SiLU, layer norm, GEGLU and sums with biases in one or two passes over memory (see `fused_kernels`).

Each is the expression in its docstring and differentiable, once, in its first tensors; weights and biases, frozen here,
get no gradients. Import this file only where Triton is.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from jdx.backends.torch import fused_kernels as kernels

PLACES, CHANNELS = 32, 64
"""A tile of a picture. 64 divides Stable Diffusion's widths and makes lines of 128 bytes in bfloat16."""
CHUNK, CHUNKS = 128, 64
"""Least places of a piece for statistics, and most pieces of a sample."""
PIECES, WIDTH = 32, 128
"""A tile of a group's pieces and channels, mostly empty: one kernel for all sizes, each of which would take 0.2 s."""
ROWS, COLUMNS = 8, 256
"""A tile of GEGLU; 256 divides the widths again."""
NUMBERS = 2048
"""Of a tile of layer norm, whose rows are whole."""
TILE = {"P": PLACES, "B": CHANNELS}


def _launch(kernel: Any, grid: tuple[int, ...], x: Tensor, *args: object, **constants: object) -> None:
    """On x's card: Triton starts kernels on the process's current one."""
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        kernel[grid](x, *args, **constants)


def _grid(x: Tensor) -> tuple[int, int, int]:
    """Of tiles of a picture, for what goes place by place."""
    N, C, h, w = x.shape
    return triton.cdiv(h * w, PLACES), N, triton.cdiv(C, CHANNELS)


class _Cut:
    """How a sample's places are cut into pieces for sums; a matter of its size alone."""

    def __init__(self, x: Tensor, groups: int):
        self.N, self.C, self.G = x.shape[0], x.shape[1], groups
        self.S = x.shape[2] * x.shape[3]
        self.chunk = max(CHUNK, triton.cdiv(triton.cdiv(self.S, CHUNKS), PLACES) * PLACES)
        self.count = triton.cdiv(self.S, self.chunk)
        self.grid = (self.N, self.count, triton.cdiv(self.C, CHANNELS))
        self.tile = {
            "J": max(PIECES, triton.next_power_of_2(self.count)),
            "W": max(WIDTH, triton.next_power_of_2(self.C // groups)),
        }

    def sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Room for two sums of each sample, piece and channel."""
        first, second = x.new_empty((2, self.N, self.count, self.C), dtype=torch.float32)
        return first, second


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shift: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        silu: bool,
    ) -> Tensor:
        cut = _Cut(x, groups)
        S, C, means, squares = cut.S, cut.C, *cut.sums(x)
        _launch(kernels.moments, cut.grid, x, means, squares, S, C, cut.chunk, cut.count, **TILE)
        scale, offset, centre = x.new_empty((3, cut.N, C), dtype=torch.float32)
        rstd, y = x.new_empty((cut.N, groups), dtype=torch.float32), torch.empty_like(x)
        given = (squares, shift, weight, bias, scale, offset, centre, rstd)
        sizes = (S, C, cut.chunk, cut.count, groups, eps)
        has_shift = shift is not None
        _launch(kernels.group, (cut.N, groups), means, *given, *sizes, HAS_SHIFT=has_shift, **cut.tile)
        _launch(kernels.affine, _grid(x), x, scale, offset, y, S, C, SILU=silu, **TILE)
        ctx.save_for_backward(x, weight, scale, offset, centre, rstd)
        ctx.groups, ctx.silu = groups, silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, offset, centre, rstd = ctx.saved_tensors
        dy, cut, silu = channels_last(dy), _Cut(x, ctx.groups), {"SILU": ctx.silu}
        S, C, G, one, two = cut.S, cut.C, cut.G, *cut.sums(x)
        given = (dy, scale, offset, centre)
        _launch(kernels.sums, cut.grid, x, *given, one, two, S, C, cut.chunk, cut.count, **silu, **TILE)
        level, slope = x.new_empty((2, cut.N, G), dtype=torch.float32)
        sums = (one, two, weight, rstd, slope, level)
        _launch(kernels.group_sums, (cut.N, G), *sums, S, C, cut.count, G, **cut.tile)
        dx = torch.empty_like(x)
        _launch(kernels.group_grad, _grid(x), x, *given, level, slope, dx, S, C, G, **silu, **TILE)
        return dx, None, None, None, None, None, None


class _Geglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        D = x.shape[-1] // 2
        y = x.new_empty((*x.shape[:-1], D))
        M = y.numel() // D
        _launch(kernels.geglu, _Geglu.grid(M, D), x, y, M, D, R=ROWS, B=COLUMNS)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        D, dy, dx = x.shape[-1] // 2, dy.contiguous(), torch.empty_like(x)
        M = dy.numel() // D
        _launch(kernels.geglu_grad, _Geglu.grid(M, D), x, dy, dx, M, D, R=ROWS, B=COLUMNS)
        return dx

    @staticmethod
    def grid(M: int, D: int) -> tuple[int, int]:
        return triton.cdiv(M, ROWS), triton.cdiv(D, COLUMNS)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, (M, C, grid, tile) = torch.empty_like(x), _LayerNorm.cut(x)
        _launch(kernels.layer_norm, grid, x, weight, bias, y, M, C, eps, **tile)
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx, (M, C, grid, tile) = torch.empty_like(x), _LayerNorm.cut(x)
        _launch(kernels.layer_norm_grad, grid, x, weight, dy.contiguous(), dx, M, C, ctx.eps, **tile)
        return dx, None, None, None

    @staticmethod
    def cut(x: Tensor) -> tuple[int, int, tuple[int], dict[str, int]]:
        """Rows, their length, the grid and its tiles."""
        C = x.shape[-1]
        wide = triton.next_power_of_2(C)
        rows = max(1, NUMBERS // wide)
        M = x.numel() // C
        return M, C, (triton.cdiv(M, rows),), {"R": rows, "B": wide}


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, one: Tensor | None, two: Tensor | None) -> Tensor:
        out, sizes = torch.empty_like(x), (x.shape[2] * x.shape[3], x.shape[1])
        has = {"HAS1": one is not None, "HAS2": two is not None}
        _launch(kernels.join, _grid(x), x, y, one, two, out, *sizes, **has, **TILE)
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return dy, dy, None, None


def channels_last(x: Tensor) -> Tensor:
    """The same numbers (N, C, h, w), copied if they lie otherwise."""
    return x.contiguous(memory_format=torch.channels_last)


def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    *,
    silu: bool = False,
    shift: Tensor | None = None,
) -> Tensor:
    """`F.group_norm(x + shift[..., None, None], groups, weight, bias, eps)`, then `F.silu` if asked for.

    x (N, C, h, w), any precision; shift (N, C), without a gradient. Returns channels-last.
    """
    shift = None if shift is None else shift.contiguous()
    y: Tensor = _GroupNorm.apply(channels_last(x), shift, weight, bias, groups, eps, silu)
    return y


def geglu(x: Tensor) -> Tensor:
    """`a * F.gelu(b)` of the halves a, b (..., D) of x (..., 2 D)."""
    y: Tensor = _Geglu.apply(x.contiguous())
    return y


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`F.layer_norm(x, (C,), weight, bias, eps)` of x (..., C)."""
    y: Tensor = _LayerNorm.apply(x.contiguous(), weight, bias, eps)
    return y


def join(x: Tensor, y: Tensor, one: Tensor | None = None, two: Tensor | None = None) -> Tensor:
    """`x + y` and biases (C,) by channel, of x and y (N, C, h, w)."""
    z: Tensor = _Join.apply(channels_last(x), channels_last(y), one, two)
    return z
