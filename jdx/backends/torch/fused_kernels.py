"""Triton kernels for what lies between a UNet's matrix products: norms, SiLU, GEGLU, sums with biases.

Pictures are channels-last: place s of a sample's S places and channel c of C at s · C + c. Everything is computed in
float32, whatever the tensors' precision, and in an order that depends on a sample's own size alone, so it has the same
bits whatever stands beside it in the batch. `fused_functions` gives each an interface, with the formula it stands for.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _silu(z):
    return z * tl.sigmoid(z)


@triton.jit(do_not_specialize=["NUM"])
def moments(x, mean, m2, S, C, CHUNK, NUM, P: tl.constexpr, B: tl.constexpr):
    """Per sample, piece of places and channel: mean and sum of squared deviations.

    Sums are of differences from the piece's first value, and reduced over the tile once, at the end.
    """
    n, j, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    c = block * B + tl.arange(0, B)
    first, last = j * CHUNK, tl.minimum(j * CHUNK + CHUNK, S)
    base = x + n * S * C + c[None, :]
    pivot = tl.load(x + n * S * C + first * C + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    one, two = tl.zeros((P, B), tl.float32), tl.zeros((P, B), tl.float32)
    for start in range(first, last, P):
        s = start + tl.arange(0, P)
        inside = (s < last)[:, None] & (c < C)[None, :]
        tile = tl.load(base + s[:, None] * C, mask=inside, other=0.0).to(tl.float32)
        off = tl.where(inside, tile - pivot, 0.0)
        one += off
        two += off * off
    count = (last - first).to(tl.float32)
    shift = tl.sum(one, axis=0) / count
    at = (n * NUM + j) * C + c
    tl.store(mean + at, tl.sum(pivot, axis=0) + shift, mask=c < C)
    tl.store(m2 + at, tl.sum(two, axis=0) - shift * shift * count, mask=c < C)


@triton.jit(do_not_specialize=["NUM"])
def group(
    mean, m2, shift, weight, bias, scale, offset, centre, rstd,
    S, C, CHUNK, NUM, G, eps, HAS_SHIFT: tl.constexpr, J: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Per sample and group: its statistics, and with them each channel's y = x * scale + offset."""
    n, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    width = C // G
    i, j = tl.arange(0, W), tl.arange(0, J)
    c = g * width + i
    used, inside = i < width, (j < NUM)[:, None] & (i < width)[None, :]
    at = (n * NUM + j)[:, None] * C + c[None, :]
    t = tl.zeros((W,), tl.float32)
    if HAS_SHIFT:
        t = tl.load(shift + n * C + c, mask=used, other=0.0).to(tl.float32)
    count = tl.maximum(tl.minimum(S - j * CHUNK, CHUNK), 0).to(tl.float32)[:, None]
    means = tl.load(mean + at, mask=inside, other=0.0) + t[None, :]
    total = (S * width).to(tl.float32)
    mu = tl.sum(tl.sum(tl.where(inside, means * count, 0.0), axis=1), axis=0) / total
    off = tl.where(inside, means - mu, 0.0)
    squares = tl.load(m2 + at, mask=inside, other=0.0) + off * off * count
    r = 1.0 / tl.sqrt(tl.sum(tl.sum(squares, axis=1), axis=0) / total + eps)
    w = tl.load(weight + c, mask=used, other=0.0).to(tl.float32) * r
    b = tl.load(bias + c, mask=used, other=0.0).to(tl.float32)
    tl.store(scale + n * C + c, w, mask=used)
    tl.store(offset + n * C + c, b + (t - mu) * w, mask=used)
    tl.store(centre + n * C + c, mu - t, mask=used)
    tl.store(rstd + n * G + g, r)


@triton.jit
def affine(x, scale, offset, y, S, C, SILU: tl.constexpr, P: tl.constexpr, B: tl.constexpr):
    """By sample and channel y = x * scale + offset, then SiLU or not."""
    n = tl.program_id(1).to(tl.int64)
    s, c = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(2) * B + tl.arange(0, B)
    inside = (s < S)[:, None] & (c < C)[None, :]
    at = n * S * C + s[:, None] * C + c[None, :]
    a = tl.load(scale + n * C + c, mask=c < C, other=0.0)[None, :]
    b = tl.load(offset + n * C + c, mask=c < C, other=0.0)[None, :]
    z = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * a + b
    if SILU:
        z = _silu(z)
    tl.store(y + at, z.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _dz(x, dy, a, b, SILU: tl.constexpr):
    """The gradient before the activation."""
    if SILU:
        z = x * a + b
        p = tl.sigmoid(z)
        return dy * p * (1.0 + z * (1.0 - p))
    return dy


@triton.jit(do_not_specialize=["NUM"])
def sums(
    x, dy, scale, offset, centre, sum1, sum2, S, C, CHUNK, NUM,
    SILU: tl.constexpr, P: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Per sample, piece and channel: sums of dz and of dz (x - centre)."""
    n, j, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    c = block * B + tl.arange(0, B)
    first, last = j * CHUNK, tl.minimum(j * CHUNK + CHUNK, S)
    a = tl.load(scale + n * C + c, mask=c < C, other=0.0)[None, :]
    b = tl.load(offset + n * C + c, mask=c < C, other=0.0)[None, :]
    m = tl.load(centre + n * C + c, mask=c < C, other=0.0)[None, :]
    one, two = tl.zeros((P, B), tl.float32), tl.zeros((P, B), tl.float32)
    for start in range(first, last, P):
        s = start + tl.arange(0, P)
        inside = (s < last)[:, None] & (c < C)[None, :]
        at = n * S * C + s[:, None] * C + c[None, :]
        tile = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        dz = _dz(tile, tl.load(dy + at, mask=inside, other=0.0).to(tl.float32), a, b, SILU)
        one += dz
        two += dz * (tile - m)
    at = (n * NUM + j) * C + c
    tl.store(sum1 + at, tl.sum(one, axis=0), mask=c < C)
    tl.store(sum2 + at, tl.sum(two, axis=0), mask=c < C)


@triton.jit(do_not_specialize=["NUM"])
def group_sums(sum1, sum2, weight, rstd, slope, level, S, C, NUM, G, J: tl.constexpr, W: tl.constexpr):
    """Per sample and group: dx = scale * dz - level - slope * (x - centre)."""
    n, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    width = C // G
    i, j = tl.arange(0, W), tl.arange(0, J)
    c = g * width + i
    inside = (j < NUM)[:, None] & (i < width)[None, :]
    at = (n * NUM + j)[:, None] * C + c[None, :]
    w = tl.load(weight + c, mask=i < width, other=0.0).to(tl.float32)
    r = tl.load(rstd + n * G + g)
    total = (S * width).to(tl.float32)
    one = tl.sum(tl.load(sum1 + at, mask=inside, other=0.0), axis=0)
    two = tl.sum(tl.load(sum2 + at, mask=inside, other=0.0), axis=0)
    tl.store(level + n * G + g, r * tl.sum(one * w, axis=0) / total)
    tl.store(slope + n * G + g, r * r * r * tl.sum(two * w, axis=0) / total)


@triton.jit
def group_grad(
    x, dy, scale, offset, centre, level, slope, dx, S, C, G,
    SILU: tl.constexpr, P: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """What `group_sums` says, place by place."""
    n = tl.program_id(1).to(tl.int64)
    s, c = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(2) * B + tl.arange(0, B)
    inside = (s < S)[:, None] & (c < C)[None, :]
    at = n * S * C + s[:, None] * C + c[None, :]
    g = c // (C // G)
    a = tl.load(scale + n * C + c, mask=c < C, other=0.0)[None, :]
    b = tl.load(offset + n * C + c, mask=c < C, other=0.0)[None, :]
    m = tl.load(centre + n * C + c, mask=c < C, other=0.0)[None, :]
    p = tl.load(level + n * G + g, mask=c < C, other=0.0)[None, :]
    q = tl.load(slope + n * G + g, mask=c < C, other=0.0)[None, :]
    tile = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    dz = _dz(tile, tl.load(dy + at, mask=inside, other=0.0).to(tl.float32), a, b, SILU)
    tl.store(dx + at, (a * dz - p - q * (tile - m)).to(dx.dtype.element_ty), mask=inside)


@triton.jit
def geglu(x, y, M, D, R: tl.constexpr, B: tl.constexpr):
    """Of M rows of 2 D numbers: the first half times GELU of the second."""
    row = (tl.program_id(0).to(tl.int64) * R + tl.arange(0, R))[:, None]
    i = (tl.program_id(1) * B + tl.arange(0, B))[None, :]
    inside = (row < M) & (i < D)
    a = tl.load(x + row * 2 * D + i, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + row * 2 * D + D + i, mask=inside, other=0.0).to(tl.float32)
    gelu = 0.5 * b * (1.0 + tl.erf(b * 0.7071067811865476))
    tl.store(y + row * D + i, (a * gelu).to(y.dtype.element_ty), mask=inside)


@triton.jit
def geglu_grad(x, dy, dx, M, D, R: tl.constexpr, B: tl.constexpr):
    """The gradient of `geglu`."""
    row = (tl.program_id(0).to(tl.int64) * R + tl.arange(0, R))[:, None]
    i = (tl.program_id(1) * B + tl.arange(0, B))[None, :]
    inside = (row < M) & (i < D)
    a = tl.load(x + row * 2 * D + i, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + row * 2 * D + D + i, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(dy + row * D + i, mask=inside, other=0.0).to(tl.float32)
    share = 0.5 * (1.0 + tl.erf(b * 0.7071067811865476))
    slope = share + b * 0.3989422804014327 * tl.exp(-0.5 * b * b)
    tl.store(dx + row * 2 * D + i, (d * b * share).to(dx.dtype.element_ty), mask=inside)
    tl.store(dx + row * 2 * D + D + i, (d * a * slope).to(dx.dtype.element_ty), mask=inside)


@triton.jit
def layer_norm(x, weight, bias, y, M, C, eps, R: tl.constexpr, B: tl.constexpr):
    """Of M rows of C numbers."""
    row, c = (tl.program_id(0).to(tl.int64) * R + tl.arange(0, R))[:, None], tl.arange(0, B)
    used, inside = c < C, (row < M) & (c < C)[None, :]
    tile = tl.load(x + row * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
    off = tl.where(used[None, :], tile - (tl.sum(tile, axis=1) / C)[:, None], 0.0)
    r = 1.0 / tl.sqrt(tl.sum(off * off, axis=1) / C + eps)
    w = tl.load(weight + c, mask=used, other=0.0).to(tl.float32)[None, :]
    b = tl.load(bias + c, mask=used, other=0.0).to(tl.float32)[None, :]
    tl.store(y + row * C + c[None, :], (off * r[:, None] * w + b).to(y.dtype.element_ty), mask=inside)


@triton.jit
def layer_norm_grad(x, weight, dy, dx, M, C, eps, R: tl.constexpr, B: tl.constexpr):
    """The gradient of `layer_norm`, whose statistics are computed again rather than kept."""
    row, c = (tl.program_id(0).to(tl.int64) * R + tl.arange(0, R))[:, None], tl.arange(0, B)
    used, inside = c < C, (row < M) & (c < C)[None, :]
    at = row * C + c[None, :]
    tile = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    off = tl.where(used[None, :], tile - (tl.sum(tile, axis=1) / C)[:, None], 0.0)
    r = (1.0 / tl.sqrt(tl.sum(off * off, axis=1) / C + eps))[:, None]
    w = tl.load(weight + c, mask=used, other=0.0).to(tl.float32)[None, :]
    d = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32) * w
    normed = off * r
    level, slope = (tl.sum(d, axis=1) / C)[:, None], (tl.sum(d * normed, axis=1) / C)[:, None]
    tl.store(dx + at, (r * (d - level - normed * slope)).to(dx.dtype.element_ty), mask=inside)


@triton.jit
def join(
    x, y, bias1, bias2, out, S, C,
    HAS1: tl.constexpr, HAS2: tl.constexpr, P: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Of two pictures, with up to two biases by channel."""
    n = tl.program_id(1).to(tl.int64)
    s, c = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(2) * B + tl.arange(0, B)
    inside = (s < S)[:, None] & (c < C)[None, :]
    at = n * S * C + s[:, None] * C + c[None, :]
    z = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    z += tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    if HAS1:
        z += tl.load(bias1 + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    if HAS2:
        z += tl.load(bias2 + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    tl.store(out + at, z.to(out.dtype.element_ty), mask=inside)
