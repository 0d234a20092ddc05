"""Trained adapters, and their files written so that plain diffusers draws the same (`adapter_files`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from jdx.backends import adapter_files
from jdx.backends.adapter_files import FILE
from jdx.backends.lora_keys import canonical_te_path, memory_te_path
from jdx.backends.torch.enhancer import Enhancer, save_enhancer
from jdx.backends.torch.token_files import TokenVectors, save_tokens
from jdx.files import write_bytes

__all__ = [
    "FILE",
    "Adapter",
    "LoraPair",
    "canonical_te_path",
    "memory_te_path",
    "save_adapter",
    "write_adapter",
]

LoraPair = adapter_files.LoraPair[Tensor]


@dataclass(frozen=True)
class Adapter:
    """All that a style has learnt, a field for each trained part (`parts.Part.result`).

    unet, text_encoder: {module path: pair}; text paths are canonical (`text_model.`). enhancer: of the text states.
    tokens: a learnt word.
    """

    unet: Mapping[str, LoraPair] = field(default_factory=dict)
    text_encoder: Mapping[str, LoraPair] = field(default_factory=dict)
    enhancer: Enhancer | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tokens: TokenVectors | None = None


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write each part of an adapter into `folder`, in the file that other tools expect it in."""
    if adapter.unet or adapter.text_encoder or (adapter.tokens is None and adapter.enhancer is None):
        save_adapter(folder, adapter.unet, adapter.text_encoder, adapter.metadata)
    if adapter.enhancer is not None:
        about = {**adapter.metadata, **adapter.enhancer.metadata}
        save_enhancer(folder, replace(adapter.enhancer, metadata=about))
    if adapter.tokens is not None:
        save_tokens(folder, adapter.tokens, adapter.metadata)


def save_adapter(
    folder: Path,
    unet: Mapping[str, LoraPair],
    text_encoder: Mapping[str, LoraPair],
    metadata: Mapping[str, object],
) -> Path:
    """Write `folder`/pytorch_lora_weights.safetensors and return its path.

    Raises: ValueError, see `adapter_files.file_of`.
    """
    tensors, header = adapter_files.file_of(unet, text_encoder, metadata)
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(folder / FILE, safetensors.torch.save(whole, metadata=header))
    return folder / FILE
