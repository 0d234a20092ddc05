"""AutoencoderKL of Stable Diffusion (Rombach et al. 2022), as diffusers computes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jittor as jt

from jdx.backends.jittor.worker.nets.attention import Attention
from jdx.backends.jittor.worker.nets.blocks import Doubling, Halving
from jdx.backends.jittor.worker.nets.configs import VAE, VaeConfig, config_of
from jdx.backends.jittor.worker.nets.layers import Conv, GroupNorm, silu
from jdx.backends.jittor.worker.nets.weights import Source, open_weights

EPS = 1e-6


class Vae:
    """Pixels to the posterior of their latents and back; latents unscaled."""

    def __init__(self, source: Source, c: VaeConfig):
        self.config = c
        latents = c.latent_channels
        self.encoder = Encoder(source.below("encoder"), c)
        self.decoder = Decoder(source.below("decoder"), c)
        self.quant = Conv(source.below("quant_conv"), 2 * latents, 2 * latents, 1)
        self.post_quant = Conv(source.below("post_quant_conv"), latents, latents, 1)
        self.modules: Mapping[str, Any] = source.book.modules

    def encode(self, pixels: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Mean and standard deviation (n, C, h, w) of the posterior of pixels (n, 3, H, W) in [-1, 1]."""
        mean, log_variance = jt.chunk(self.quant(self.encoder(pixels)), 2, dim=1)
        return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()

    def decode(self, latents: jt.Var) -> jt.Var:
        """Pixels (n, 3, H, W), about [-1, 1], of latents (n, C, h, w)."""
        return self.decoder(self.post_quant(latents))


class Middle:
    """Residual block, attention with one head, residual block."""

    def __init__(self, source: Source, c: VaeConfig):
        width = c.block_out_channels[-1]
        attention = source.below("attentions", 0)
        self.norm = GroupNorm(attention.below("group_norm"), c.norm_num_groups, width, EPS)
        self.attention = Attention(attention, width, width, 1, bias=True)
        self.first = c.resnet(source.below("resnets", 0), width, width)
        self.second = c.resnet(source.below("resnets", 1), width, width)

    def __call__(self, x: jt.Var) -> jt.Var:
        """x: (N, C, H, W)."""
        x = self.first(x)
        N, C, H, W = x.shape
        pixels = self.norm(x).reshape(N, C, H * W).permute(0, 2, 1)
        return self.second(x + self.attention(pixels).permute(0, 2, 1).reshape(N, C, H, W))


class Encoder:
    """Pixels to mean and log variance, before the last 1 × 1 convolution."""

    def __init__(self, source: Source, c: VaeConfig):
        channels = c.block_out_channels
        self.conv_in = Conv(source.below("conv_in"), c.in_channels, channels[0], 3, padding=1)
        self.layers: list[Any] = []
        for level, width in enumerate(channels):
            block, before = source.below("down_blocks", level), channels[max(level - 1, 0)]
            wide = [before] + [width] * (c.layers_per_block - 1)
            self.layers += [c.resnet(block.below("resnets", i), c_in, width) for i, c_in in enumerate(wide)]
            if level < len(channels) - 1:
                self.layers.append(Halving(block.below("downsamplers", 0), width, padding=0))
        self.layers.append(Middle(source.below("mid_block"), c))
        self.norm = GroupNorm(source.below("conv_norm_out"), c.norm_num_groups, channels[-1], EPS)
        self.conv_out = Conv(source.below("conv_out"), channels[-1], 2 * c.latent_channels, 3, padding=1)

    def __call__(self, x: jt.Var) -> jt.Var:
        """x: (N, 3, H, W)."""
        return _through(self, x)


class Decoder:
    """Latents to pixels, after the first 1 × 1 convolution."""

    def __init__(self, source: Source, c: VaeConfig):
        channels = c.block_out_channels[::-1]
        self.conv_in = Conv(source.below("conv_in"), c.latent_channels, channels[0], 3, padding=1)
        self.layers: list[Any] = [Middle(source.below("mid_block"), c)]
        for level, width in enumerate(channels):
            block, before = source.below("up_blocks", level), channels[max(level - 1, 0)]
            wide = [before] + [width] * c.layers_per_block
            self.layers += [c.resnet(block.below("resnets", i), c_in, width) for i, c_in in enumerate(wide)]
            if level < len(channels) - 1:
                self.layers.append(Doubling(block.below("upsamplers", 0), width))
        self.norm = GroupNorm(source.below("conv_norm_out"), c.norm_num_groups, channels[-1], EPS)
        self.conv_out = Conv(source.below("conv_out"), channels[-1], c.out_channels, 3, padding=1)

    def __call__(self, x: jt.Var) -> jt.Var:
        """x: (N, C, h, w)."""
        return _through(self, x)


def _through(half: Encoder | Decoder, x: jt.Var) -> jt.Var:
    x = half.conv_in(x)
    for layer in half.layers:
        x = layer(x)
        if jt.flags.no_grad:
            x.sync()  # now, so that a large picture's activations are gone before the next layer's are made
    return half.conv_out(silu(half.norm(x)))


def load_vae(folder: Path, variant: str | None) -> Vae:
    """The autoencoder in a model's folder.

    Raises: BackendError with everything in its config that is not supported, or in its weights that does not fit.
    """
    config = config_of(folder / "config.json", VAE, VaeConfig)
    source = open_weights(folder, "diffusion_pytorch_model", variant)
    vae = Vae(source, config)
    source.book.close(folder)
    return vae
