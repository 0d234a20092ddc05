"""A still smaller denoiser than the tiny model's, for what traces or compiles it."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel

from jdx.backends.torch.models import Models


def of_two_blocks(whole: Models) -> Models:
    """The model around a random UNet of two blocks, in its precision on a CPU: a trace takes seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            mid_block_type=None,
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=whole.text_encoder.config.hidden_size,
            use_linear_projection=True,
        )
    return replace(whole, unet=unet.to(whole.dtype).requires_grad_(False).eval())
