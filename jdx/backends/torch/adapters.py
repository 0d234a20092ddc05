"""Trained adapters, and their files written so that plain diffusers draws the same.

A file is `pytorch_lora_weights.safetensors` with diffusers' key names in float32 (or whatever was trained
in). diffusers takes alpha from the header's `lora_adapter_metadata`, a JSON object of PEFT's LoraConfig per
network; without it alpha would silently become the rank. Our own record sits in the same object under `jdx.`,
which diffusers skips: safetensors writes several header entries in random order, and one entry makes equal
adapters equal files, byte for byte.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from jdx._version import __version__
from jdx.backends.lora_keys import TEXT_PREFIX, canonical_te_path, memory_te_path
from jdx.backends.torch.enhancer import Enhancer, save_enhancer
from jdx.backends.torch.token_files import TokenVectors, save_tokens
from jdx.files import write_bytes

__all__ = ["Adapter", "LoraPair", "canonical_te_path", "memory_te_path", "save_adapter", "write_adapter"]

FILE = "pytorch_lora_weights.safetensors"
HEADER = "lora_adapter_metadata"
MAGNITUDE_END = {"unet": "", "text_encoder": ".weight"}
"""PEFT's own loader, which diffusers calls for the UNet, takes both names; transformers 5 loads text encoders itself
and leaves out a magnitude that is not called a weight."""


@dataclass(frozen=True)
class LoraPair:
    """One adapted layer, W' = W + alpha / r · up @ down (Hu et al. 2021). down (r, in), up (out, r).

    magnitude (out,): with DoRA (Liu et al. 2024), the lengths that the rows of W' are brought to.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """The inner size r."""
        return int(self.down.shape[0])

    @property
    def finite(self) -> bool:
        """Whether all numbers are."""
        tensors = (self.down, self.up) if self.magnitude is None else (self.down, self.up, self.magnitude)
        return all(bool(tensor.isfinite().all()) for tensor in tensors)


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

    unet, text_encoder: {module path inside the network: pair}; text paths with or without `text_model.`.
    metadata: JSON values such as base_model, style, step; jdx's version is added. Raises ValueError when
    there is nothing to save, and lists the modules whose numbers are not finite or whose shapes do not fit
    each other.
    """
    networks = {
        "unet": dict(unet),
        "text_encoder": {canonical_te_path(path): pair for path, pair in text_encoder.items()},
    }
    tensors: dict[str, Tensor] = {}
    for name, pairs in networks.items():
        for path, pair in pairs.items():
            tensors[f"{name}.{path}.lora_A.weight"] = pair.down.detach().cpu().contiguous().clone()
            tensors[f"{name}.{path}.lora_B.weight"] = pair.up.detach().cpu().contiguous().clone()
            if pair.magnitude is not None:
                key = f"{name}.{path}.lora_magnitude_vector{MAGNITUDE_END[name]}"
                tensors[key] = pair.magnitude.detach().cpu().contiguous().clone()
    faults = [fault for pairs in networks.values() for fault in _pair_faults(pairs)]
    if faults or not tensors:
        raise ValueError("adapter not saved: " + ("; ".join(faults) or "it has no layers, both ranks are 0"))
    header = {f"jdx.{key}": value for key, value in {"version": __version__, **metadata}.items()}
    for name, pairs in networks.items():
        header |= {f"{name}.{key}": value for key, value in _peft_config(pairs).items()}
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / FILE, safetensors.torch.save(tensors, metadata={HEADER: text}))
    return folder / FILE


def _peft_config(pairs: Mapping[str, LoraPair]) -> dict[str, Any]:
    """LoraConfig's arguments; paths without `text_model.` match transformers before and after 5."""
    if not pairs:
        return {}
    plain = {path.removeprefix(TEXT_PREFIX): pair for path, pair in pairs.items()}
    rank = Counter(pair.rank for pair in plain.values()).most_common(1)[0][0]
    alpha = Counter(pair.alpha for pair in plain.values()).most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {path: pair.rank for path, pair in plain.items() if pair.rank != rank},
        "alpha_pattern": {path: pair.alpha for path, pair in plain.items() if pair.alpha != alpha},
        "target_modules": sorted(plain),
        **({"use_dora": True} if any(pair.magnitude is not None for pair in plain.values()) else {}),
    }


def _pair_faults(pairs: Mapping[str, LoraPair]) -> list[str]:
    found = []
    for path, pair in pairs.items():
        if pair.down.ndim != 2 or pair.up.ndim != 2 or pair.down.shape[0] != pair.up.shape[1]:
            found.append(f"{path}: down {tuple(pair.down.shape)} does not fit up {tuple(pair.up.shape)}")
        if pair.magnitude is not None and pair.magnitude.shape != pair.up.shape[:1]:
            found.append(
                f"{path}: magnitude {tuple(pair.magnitude.shape)} does not fit up {tuple(pair.up.shape)}"
            )
        if not pair.finite:
            found.append(f"{path}: weights are not finite")
    without = [path for path, pair in pairs.items() if pair.magnitude is None]
    if 0 < len(without) < len(pairs):
        found.append(f"{without[0]}: no magnitude, but others have one; a file says DoRA for a whole network")
    return found
