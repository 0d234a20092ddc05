"""Adapter files of many tools, read strictly: what cannot be used is named, all of it at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from jdx.backends import adapter_files
from jdx.backends.adapter_files import LORA_FILES, NETWORKS
from jdx.backends.lora_keys import Network, canonical_te_path
from jdx.backends.torch import token_files
from jdx.backends.torch.adapters import Adapter
from jdx.backends.torch.enhancer import load_enhancer
from jdx.backends.torch.models import Models
from jdx.errors import ConfigError, Fault


def load_adapter(path: Path, models: Models) -> Adapter:
    """All that a style has learnt, from a folder (any of the files of its parts) or one file of LoRA weights.

    Raises: ConfigError when a file is not for this base or cannot be used; see `load_lora`, `load_tokens`
    and `load_enhancer`.
    """
    path = Path(path)
    word, enhancer = path / token_files.FILE, load_enhancer(path, models)
    if not word.is_file() and enhancer is None:
        return load_lora(path, models)
    width = models.text_encoder.get_input_embeddings().weight.shape[1]
    lora = load_lora(path, models) if any((path / name).is_file() for name in LORA_FILES) else Adapter()
    tokens = token_files.load_tokens(word, width) if word.is_file() else None
    return replace(lora, tokens=tokens, enhancer=enhancer)


def load_lora(path: Path, models: Models) -> Adapter:
    """The LoRA weights in a folder or file, checked against the base they are meant for.

    Reads the dialects of `lora_keys` from safetensors, and legacy `.bin` files with tensors only. alpha comes
    from `.alpha` weights, else the header or adapter_config.json, else it is the rank. Raises ConfigError
    with every unknown key, missing half, wrong shape, module that the base lacks, and non-finite weight.
    """
    file = adapter_files.find(Path(path))
    state, config = _read(file)
    networks = adapter_files.pairs_of(file, state, config, {name: _sizes(models, name) for name in NETWORKS})
    metadata = adapter_files.section(config, "jdx")
    return Adapter(networks["unet"], networks["text_encoder"], metadata=metadata)


def _sizes(models: Models, network: Network) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of the base's linear layers by the path that files use."""
    module = models.unet if network == "unet" else models.text_encoder
    canonical = canonical_te_path if network == "text_encoder" else str
    return {
        canonical(path): (part.out_features, part.in_features)
        for path, part in module.named_modules()
        if isinstance(part, nn.Linear)
    }


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, and the LoraConfig per network as in the header ("unet.r": 4)."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(str(file), framework="pt") as opened:
                header = opened.metadata() or {}
            return safetensors.torch.load_file(str(file)), adapter_files.config_of(file, header)
        # Tensors only. torch.load does not check the archive's CRCs, which Jittor writes wrongly (Python's
        # zipfile refuses such files).
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise adapter_files.unreadable(file, error) from error
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # what weights_only refuses; the module is banned here
            raise
        raise adapter_files.unreadable(file, error) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError([Fault("content", type(state).__name__, "a dict of tensors")], f"adapter {file}")
    return state, {}
