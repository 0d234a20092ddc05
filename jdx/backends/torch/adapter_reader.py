"""Adapter files of many tools, read strictly: what cannot be used is named, all of it at once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from jdx.backends.lora_keys import LoraKey, Network, canonical_te_path, parse, unflatten
from jdx.backends.torch import token_files
from jdx.backends.torch.adapters import FILE, HEADER, Adapter, LoraPair
from jdx.backends.torch.enhancer import load_enhancer
from jdx.backends.torch.models import Models
from jdx.errors import ConfigError, Fault

LEGACY_FILE = "pytorch_lora_weights.bin"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
LORA_FILES = (FILE, PEFT_FILE, LEGACY_FILE)
NETWORKS: tuple[Network, ...] = ("unet", "text_encoder")
SHOWN = 8
"""Names of one kind listed in full; the rest are counted."""


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
    file = _find(Path(path))
    state, config = _read(file)
    linears = {name: _linears(models, name) for name in NETWORKS}
    parts, faults = _sort(state, linears)
    networks: dict[str, dict[str, LoraPair]] = {"unet": {}, "text_encoder": {}}
    for (name, module), halves in parts.items():
        if {"down", "up"} <= halves.keys():
            networks[name][module] = _pair(halves, _section(config, name), module)
        else:
            missing = "up" if "down" in halves else "down"
            faults.append(Fault(f"{name}.{module}", "", f"its {missing} weight is missing"))
    for name in NETWORKS:
        faults += _base_faults(networks[name], name, linears[name])
    if not faults and not parts:
        faults = [Fault("keys", "none", "the file holds no LoRA weights")]
    if faults:
        raise ConfigError(_shortened(faults), what=f"adapter {file}")
    return Adapter(networks["unet"], networks["text_encoder"], metadata=_section(config, "jdx"))


def _linears(models: Models, network: str) -> dict[str, nn.Linear]:
    """The base's linear layers by the path that files use."""
    module = models.unet if network == "unet" else models.text_encoder
    canonical = canonical_te_path if network == "text_encoder" else str
    return {canonical(path): part for path, part in module.named_modules() if isinstance(part, nn.Linear)}


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    known = [path / name for name in LORA_FILES]
    others = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    for file in known:
        if file.is_file():
            return file
    if len(others) == 1:
        return others[0]
    there = f"there are: {', '.join(p.name for p in others)}" if others else "there is none"
    allowed = f"give a LoRA file, or a folder with {FILE} or {LEGACY_FILE}; {there}"
    raise ConfigError([Fault("path", str(path), allowed)], what="adapter")


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, and the LoraConfig per network as in the header ("unet.r": 4)."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(str(file), framework="pt") as opened:
                header = opened.metadata() or {}
            return safetensors.torch.load_file(str(file)), _config(file, header)
        # Tensors only. torch.load does not check the archive's CRCs, which Jittor writes wrongly (Python's
        # zipfile refuses such files).
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise _unreadable(file, error) from error
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # what weights_only refuses; the module is banned here
            raise
        raise _unreadable(file, error) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError([Fault("content", type(state).__name__, "a dict of tensors")], f"adapter {file}")
    return state, {}


def _unreadable(file: Path, error: Exception) -> ConfigError:
    allowed = f"a safetensors file, or a .bin of tensors only ({type(error).__name__}: {str(error)[:200]})"
    return ConfigError([Fault("file", "cannot be read", allowed)], what=f"adapter {file}")


def _config(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    if HEADER in header:
        return dict(json.loads(header[HEADER]))
    beside = file.with_name(PEFT_CONFIG)
    if file.name == PEFT_FILE and beside.is_file():
        config = json.loads(beside.read_text(encoding="utf-8"))
        return {f"{name}.{key}": value for name in NETWORKS for key, value in config.items()}
    return {}


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}


def _sort(
    state: Mapping[str, Tensor], linears: Mapping[Network, Mapping[str, nn.Linear]]
) -> tuple[dict[tuple[Network, str], dict[str, Tensor]], list[Fault]]:
    """Weights by (network, module) and half, and the names that mean nothing."""
    parts: dict[tuple[Network, str], dict[str, Tensor]] = {}
    faults = []
    for key, tensor in state.items():
        meaning = parse(key)
        module = _module(meaning, linears) if meaning else None
        if meaning is None or module is None:
            faults.append(Fault(key, "", "no LoRA weight of a linear layer that jdx can read"))
            continue
        parts.setdefault((meaning.network, module), {})[meaning.role] = tensor
    return parts, faults


def _module(meaning: LoraKey, linears: Mapping[Network, Mapping[str, nn.Linear]]) -> str | None:
    return unflatten(meaning.path, linears[meaning.network]) if meaning.flat else meaning.path


def _pair(halves: Mapping[str, Tensor], config: Mapping[str, Any], module: str) -> LoraPair:
    down, up = halves["down"], halves["up"]
    rank = int(down.shape[0]) if down.ndim else 0
    magnitude = halves.get("magnitude")
    if "alpha" in halves:
        return LoraPair(down, up, float(halves["alpha"]), magnitude)
    alpha = float(config.get("lora_alpha", rank))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        # PEFT's rule: the pattern is the end of the path, at a dot.
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    # rsLoRA (Kalajdzievski 2023) scales by alpha / sqrt(r); the same factor as alpha·sqrt(r) / r
    return LoraPair(down, up, alpha * rank**0.5 if config.get("use_rslora") else alpha, magnitude)


def _base_faults(pairs: Mapping[str, LoraPair], name: str, linears: Mapping[str, nn.Linear]) -> list[Fault]:
    found = []
    for path, pair in pairs.items():
        key = f"{name}.{path}"
        layer = linears.get(path)
        if layer is None:
            found.append(Fault(key, "", "this base model has no such linear layer"))
            continue
        down, up = tuple(pair.down.shape), tuple(pair.up.shape)
        if down != (pair.rank, layer.in_features) or up != (layer.out_features, pair.rank):
            wanted = f"down (r, {layer.in_features}) and up ({layer.out_features}, r) for this base model"
            found.append(Fault(key, f"down {down}, up {up}", wanted))
        elif pair.magnitude is not None and pair.magnitude.shape != (layer.out_features,):
            wanted = f"magnitude ({layer.out_features},) for this base model"
            found.append(Fault(key, f"magnitude {tuple(pair.magnitude.shape)}", wanted))
        elif not pair.finite:
            found.append(Fault(key, "", "weights must be finite; the training that made them diverged"))
    return found


def _shortened(faults: list[Fault]) -> list[Fault]:
    """At most SHOWN faults of one kind: a file for another model would list hundreds."""
    kinds = Counter(fault.allowed for fault in faults)
    shown: Counter[str] = Counter()
    kept = []
    for fault in faults:
        shown[fault.allowed] += 1
        if shown[fault.allowed] <= SHOWN:
            kept.append(fault)
    for kind, count in kinds.items():
        if count > SHOWN:
            kept.append(Fault(f"... and {count - SHOWN} more", "", kind))
    return kept
