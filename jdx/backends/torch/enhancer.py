"""A trained VAE prompt enhancer: its file beside the adapter, and what it does to text states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jdx.backends.enhancer_files import StoredEnhancer, read_enhancer, write_enhancer
from jdx.backends.torch.models import Models
from jdx.methods.enhancer import Form, enhance


@dataclass(frozen=True)
class Enhancer:
    """One style's enhancer. vector: its parameters (P,); seen: its features (2C, 2·rows, 2·columns); on the CPU."""

    form: Form
    weight: float
    vector: Tensor
    seen: Tensor
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def bias(self) -> Tensor:
        """What is added to the text states, (tokens, width): weight · out."""
        return self.weight * enhance(self.vector[None], self.seen[None].to(self.vector), self.form)[0]


def form_of(models: Models) -> Form:
    """The sizes that fit this model's latents and text states."""
    return Form(models.latent_channels, models.max_tokens, int(models.text_encoder.config.hidden_size))


def add(states: Tensor, bias: Tensor) -> Tensor:
    """Text states plus a bias that broadcasts, summed in float32 or wider and rounded once."""
    return (states.to(torch.promote_types(states.dtype, bias.dtype)) + bias).to(states.dtype)


def save_enhancer(folder: Path, enhancer: Enhancer) -> Path:
    """Write `folder`/vae_enhancer.safetensors and return its path.

    Raises: ValueError when a number is not finite.
    """
    vector, seen = (x.detach().float().cpu().numpy() for x in (enhancer.vector, enhancer.seen))
    return write_enhancer(
        folder, StoredEnhancer(enhancer.form, enhancer.weight, vector, seen, enhancer.metadata)
    )


def load_enhancer(folder: Path, models: Models) -> Enhancer | None:
    """The enhancer in an adapter's folder, checked against the model; None when there is none.

    Raises: ConfigError with every fault, see `read_enhancer`.
    """
    found = read_enhancer(folder, form_of(models))
    if found is None:
        return None
    vector, seen = torch.from_numpy(found.vector), torch.from_numpy(found.seen)
    return Enhancer(found.form, found.weight, vector, seen, found.metadata)
