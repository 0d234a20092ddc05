"""Random adapters for the tiny Stable Diffusion."""

from __future__ import annotations

import torch
from torch import nn

from jdx.backends.torch.adapters import Adapter, LoraPair
from jdx.backends.torch.models import Models

UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


def random_pairs(
    network: nn.Module, targets: tuple[str, ...], rank: int, alpha: float, seed: int = 0
) -> dict[str, LoraPair]:
    """A pair for every linear layer whose path ends with a target, large enough to change pictures."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for path, layer in network.named_modules():
        if isinstance(layer, nn.Linear) and any(path == t or path.endswith("." + t) for t in targets):
            down = torch.randn(rank, layer.in_features, generator=generator) * 0.3
            up = torch.randn(layer.out_features, rank, generator=generator) * 0.3
            pairs[path] = LoraPair(down, up, alpha)
    return pairs


def random_adapter(
    models: Models,
    rank: int = 4,
    alpha: float = 2.0,
    text_rank: int = 2,
    text_alpha: float = 3.0,
    seed: int = 0,
) -> Adapter:
    """An adapter whose alphas are not its ranks; text_rank 0 leaves the text encoder alone."""
    text = random_pairs(models.text_encoder, TEXT_TARGETS, text_rank, text_alpha, 1) if text_rank else {}
    return Adapter(random_pairs(models.unet, UNET_TARGETS, rank, alpha), text)
