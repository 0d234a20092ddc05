"""UNet2DConditionModel of Stable Diffusion 1.x and 2.x (Rombach et al. 2022), as diffusers computes it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np

from jdx.backends.attention_names import in_order_of_pass
from jdx.backends.jittor.worker.nets.attention import Attention, Hook
from jdx.backends.jittor.worker.nets.blocks import Doubling, Halving
from jdx.backends.jittor.worker.nets.configs import UNET, UNetConfig, config_of
from jdx.backends.jittor.worker.nets.layers import Conv, GroupNorm, LayerNorm, Linear, gelu, silu
from jdx.backends.jittor.worker.nets.weights import Source, open_weights


class UNet:
    """The denoiser. `modules`: its layers by diffusers' paths, in the order in which diffusers registers them."""

    def __init__(self, source: Source, c: UNetConfig):
        channels, levels = c.block_out_channels, range(len(c.block_out_channels))
        self.config = c
        self.conv_in = Conv(source.below("conv_in"), c.in_channels, channels[0], 3, padding=1)
        time = source.below("time_embedding")
        self.time1 = Linear(time.below("linear_1"), channels[0], c.time_width)
        self.time2 = Linear(time.below("linear_2"), c.time_width, c.time_width)
        self.down = [Down(source.below("down_blocks", i), c, i) for i in levels]
        self.up = [Up(source.below("up_blocks", i), c, i) for i in levels]
        self.middle = Middle(source.below("mid_block"), c)
        self.norm_out = GroupNorm(source.below("conv_norm_out"), c.norm_num_groups, channels[0], c.norm_eps)
        self.conv_out = Conv(source.below("conv_out"), channels[0], c.out_channels, 3, padding=1)
        self.modules: Mapping[str, Any] = source.book.modules

    def __call__(self, x: jt.Var, t: int | Sequence[int] | np.ndarray[Any, Any], states: jt.Var) -> jt.Var:
        """The network's answer (N, C, h, w) to noisy latents x of the same shape.

        t: time steps, one or (N,). states: text states (N, L, D).
        """
        waves = np.broadcast_to(sinusoids(t, self.config), (x.shape[0], self.config.block_out_channels[0]))
        embedded = jt.array(np.ascontiguousarray(waves)).stop_grad()
        time = silu(self.time2(silu(self.time1(embedded))))
        skips = [self.conv_in(x)]
        for block in self.down:
            skips += block(skips[-1], time, states)
        h = self.middle(skips[-1], time, states)
        for up in self.up:
            mine = [skips.pop() for _ in up.resnets]
            h = up(h, mine, skips[-1].shape[2:] if skips else None, time, states)
        return self.conv_out(silu(self.norm_out(h)))


class Down:
    """Residual blocks, each with a transformer where the level has text, and a halving but for the last level."""

    def __init__(self, source: Source, c: UNetConfig, level: int):
        width = c.block_out_channels[level]
        before = c.block_out_channels[max(level - 1, 0)]
        wide = [before] + [width] * (c.layers_per_block - 1)
        self.transformers = _transformers(source, c, level, len(wide), c.down_block_types[level])
        self.resnets = [c.resnet(source.below("resnets", i), c_in, width) for i, c_in in enumerate(wide)]
        last = level == len(c.block_out_channels) - 1
        self.halving = None if last else Halving(source.below("downsamplers", 0), width, padding=1)

    def __call__(self, h: jt.Var, time: jt.Var, states: jt.Var) -> list[jt.Var]:
        """What each layer gives, in order: the decoder's skips; the last goes on."""
        given = []
        for i, resnet in enumerate(self.resnets):
            h = resnet(h, time)
            if self.transformers:
                h = self.transformers[i](h, states)
            given.append(h)
        if self.halving is not None:
            given.append(self.halving(h))
        return given


class Middle:
    """Residual block, transformer, residual block at the lowest resolution."""

    def __init__(self, source: Source, c: UNetConfig):
        width = c.block_out_channels[-1]
        self.transformer = Transformer(source.below("attentions", 0), c, width, c.heads[-1])
        self.first = c.resnet(source.below("resnets", 0), width, width)
        self.second = c.resnet(source.below("resnets", 1), width, width)

    def __call__(self, h: jt.Var, time: jt.Var, states: jt.Var) -> jt.Var:
        """h: (N, C, H, W)."""
        return self.second(self.transformer(self.first(h, time), states), time)


class Up:
    """Residual blocks over the encoder's skips, with transformers as `Down`, and a doubling but for the last."""

    def __init__(self, source: Source, c: UNetConfig, number: int):
        channels = c.block_out_channels
        level = len(channels) - 1 - number
        width, below = channels[level], channels[min(level + 1, len(channels) - 1)]
        count = c.layers_per_block + 1
        skips = [width] * (count - 1) + [channels[max(level - 1, 0)]]
        self.transformers = _transformers(source, c, level, count, c.up_block_types[number])
        self.resnets = [
            c.resnet(source.below("resnets", i), (below if i == 0 else width) + skip, width)
            for i, skip in enumerate(skips)
        ]
        self.doubling = None if level == 0 else Doubling(source.below("upsamplers", 0), width)

    def __call__(
        self, h: jt.Var, skips: Sequence[jt.Var], size: tuple[int, int] | None, time: jt.Var, states: jt.Var
    ) -> jt.Var:
        """h: (N, C, H, W); skips: as many as resnets, the latest first; size: of the next level's skips."""
        for i, (resnet, skip) in enumerate(zip(self.resnets, skips, strict=True)):
            h = resnet(jt.concat([h, skip], 1), time)
            if self.transformers:
                h = self.transformers[i](h, states)
        return h if self.doubling is None else self.doubling(h, size)


class Transformer:
    """Transformer blocks over the pixels of a feature map (diffusers' Transformer2DModel)."""

    def __init__(self, source: Source, c: UNetConfig, width: int, heads: int):
        self.linear = c.use_linear_projection
        self.norm = GroupNorm(source.below("norm"), c.norm_num_groups, width, 1e-6)
        self.proj_in = self._projection(source.below("proj_in"), width)
        below = source.below("transformer_blocks")
        self.blocks = [
            TransformerBlock(below.below(i), width, c.cross_attention_dim, heads)
            for i in range(c.transformer_layers_per_block)
        ]
        self.proj_out = self._projection(source.below("proj_out"), width)

    def _projection(self, source: Source, width: int) -> Linear | Conv:
        return Linear(source, width, width) if self.linear else Conv(source, width, width, 1)

    def __call__(self, x: jt.Var, states: jt.Var) -> jt.Var:
        """x: (N, C, H, W); states: (N, L, D)."""
        N, C, H, W = x.shape
        h = self.norm(x)
        h = h if self.linear else self.proj_in(h)
        h = h.reshape(N, C, H * W).permute(0, 2, 1)
        h = self.proj_in(h) if self.linear else h
        for block in self.blocks:
            h = block(h, states)
        h = self.proj_out(h) if self.linear else h
        h = h.permute(0, 2, 1).reshape(N, C, H, W)
        return x + (h if self.linear else self.proj_out(h))


class TransformerBlock:
    """Self-attention, attention over the text, gated feed-forward (GEGLU, Shazeer 2020), each beside a residual."""

    def __init__(self, source: Source, width: int, context: int, heads: int):
        self.norm1 = LayerNorm(source.below("norm1"), width)
        self.attn1 = Attention(source.below("attn1"), width, width, heads)
        self.norm2 = LayerNorm(source.below("norm2"), width)
        self.attn2 = Attention(source.below("attn2"), width, context, heads)
        self.norm3 = LayerNorm(source.below("norm3"), width)
        self.gated = Linear(source.below("ff.net.0.proj"), width, 8 * width)
        self.out = Linear(source.below("ff.net.2"), 4 * width, width)

    def __call__(self, x: jt.Var, states: jt.Var) -> jt.Var:
        """x: (N, S, width); states: (N, L, D)."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), states)
        value, gate = jt.chunk(self.gated(self.norm3(x)), 2, dim=-1)
        return x + self.out(value * gelu(gate))


def _transformers(source: Source, c: UNetConfig, level: int, count: int, kind: str) -> list[Transformer]:
    if not kind.startswith("CrossAttn"):
        return []
    width, heads = c.block_out_channels[level], c.heads[level]
    return [Transformer(source.below("attentions", i), c, width, heads) for i in range(count)]


def sinusoids(t: int | Sequence[int] | np.ndarray[Any, Any], c: UNetConfig) -> np.ndarray[Any, Any]:
    """Sinusoidal embedding of time steps (Ho et al. 2020), float32 (N, width of the first level)."""
    width = c.block_out_channels[0]
    half = width // 2
    powers = (
        np.arange(half, dtype=np.float32) * np.float32(-math.log(10000)) / np.float32(half - c.freq_shift)
    )
    angles = np.atleast_1d(np.asarray(t)).astype(np.float32)[:, None] * np.exp(powers)[None]
    waves = (np.cos(angles), np.sin(angles)) if c.flip_sin_to_cos else (np.sin(angles), np.cos(angles))
    return np.pad(np.concatenate(waves, 1), ((0, 0), (0, width % 2)))


def load_unet(folder: Path, variant: str | None) -> UNet:
    """The UNet in a model's folder.

    Raises: BackendError with everything in its config that is not supported, or in its weights that does not fit.
    """
    config = config_of(folder / "config.json", UNET, UNetConfig)
    source = open_weights(folder, "diffusion_pytorch_model", variant)
    unet = UNet(source, config)
    source.book.close(folder)
    return unet


def self_attentions(unet: UNet) -> dict[str, Attention]:
    """The self-attentions of a UNet's transformer blocks by module path, in the order of the pass."""
    found: dict[str, Any] = {path: module for path, module in unet.modules.items() if path.endswith(".attn1")}
    return in_order_of_pass(found)


@contextmanager
def hooked(unet: UNet, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Inside the block the self-attentions at these paths go through their hooks."""
    layers = {path: unet.modules[path] for path in hooks}
    before = {path: layer.hook for path, layer in layers.items()}
    for path, layer in layers.items():
        layer.hook = hooks[path]
    try:
        yield
    finally:
        for path, layer in layers.items():
            layer.hook = before[path]
