"""LoRA weights on disk, whatever framework holds them: which tensors and header make a file, and what a file means.

A file is `pytorch_lora_weights.safetensors` with diffusers' key names. diffusers takes alpha from the header's
`lora_adapter_metadata`, a JSON object of PEFT's LoraConfig per network; without it alpha would silently become the
rank. Our own record sits in the same object under `jdx.`, which diffusers skips: safetensors writes several header
entries in random order, and one entry makes equal adapters equal files, byte for byte.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from jdx._version import __version__
from jdx.backends.lora_keys import TEXT_PREFIX, LoraKey, Network, canonical_te_path, parse, unflatten
from jdx.errors import ConfigError, Fault

FILE = "pytorch_lora_weights.safetensors"
HEADER = "lora_adapter_metadata"
MAGNITUDE_END = {"unet": "", "text_encoder": ".weight"}
"""PEFT's own loader, which diffusers calls for the UNet, takes both names; transformers 5 loads text encoders itself
and leaves out a magnitude that is not called a weight."""
LEGACY_FILE = "pytorch_lora_weights.bin"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
LORA_FILES = (FILE, PEFT_FILE, LEGACY_FILE)
NETWORKS: tuple[Network, ...] = ("unet", "text_encoder")
SHOWN = 8
"""Names of one kind listed in full; the rest are counted."""


class Array(Protocol):
    """A tensor of torch or an array of NumPy."""

    @property
    def shape(self) -> Any: ...

    @property
    def ndim(self) -> int: ...


T = TypeVar("T", bound=Array)
Sizes = Mapping[Network, Mapping[str, tuple[int, int]]]
"""(d_out, d_in) of the base's linear layers by network and canonical path."""


@dataclass(frozen=True)
class LoraPair(Generic[T]):
    """One adapted layer, W' = W + alpha / r · up @ down (Hu et al. 2021). down (r, in), up (out, r).

    magnitude (out,): with DoRA (Liu et al. 2024), the lengths that the rows of W' are brought to.
    """

    down: T
    up: T
    alpha: float
    magnitude: T | None = None

    @property
    def rank(self) -> int:
        """The inner size r."""
        return int(self.down.shape[0])

    @property
    def finite(self) -> bool:
        """Whether all numbers are."""
        tensors: tuple[Any, ...] = (
            self.down,
            self.up,
            *(() if self.magnitude is None else (self.magnitude,)),
        )
        with np.errstate(invalid="ignore"):
            return all(bool((tensor - tensor == 0).all()) for tensor in tensors)


def file_of(
    unet: Mapping[str, LoraPair[T]], text_encoder: Mapping[str, LoraPair[T]], metadata: Mapping[str, object]
) -> tuple[dict[str, T], dict[str, str]]:
    """The tensors of an adapter's file by name, and its header.

    unet, text_encoder: {module path inside the network: pair}; text paths with or without `text_model.`.
    metadata: JSON values such as base_model, style, step; jdx's version is added. Raises ValueError when
    there is nothing to save, and lists the modules whose numbers are not finite or whose shapes do not fit
    each other.
    """
    networks = {
        "unet": dict(unet),
        "text_encoder": {canonical_te_path(path): pair for path, pair in text_encoder.items()},
    }
    tensors: dict[str, T] = {}
    for name, pairs in networks.items():
        for path, pair in pairs.items():
            tensors[f"{name}.{path}.lora_A.weight"] = pair.down
            tensors[f"{name}.{path}.lora_B.weight"] = pair.up
            if pair.magnitude is not None:
                tensors[f"{name}.{path}.lora_magnitude_vector{MAGNITUDE_END[name]}"] = pair.magnitude
    faults = [fault for pairs in networks.values() for fault in _pair_faults(pairs)]
    if faults or not tensors:
        raise ValueError("adapter not saved: " + ("; ".join(faults) or "it has no layers, both ranks are 0"))
    header = {f"jdx.{key}": value for key, value in {"version": __version__, **metadata}.items()}
    for name, pairs in networks.items():
        header |= {f"{name}.{key}": value for key, value in _peft_config(pairs).items()}
    return tensors, {HEADER: json.dumps(header, sort_keys=True, ensure_ascii=False, allow_nan=False)}


def _peft_config(pairs: Mapping[str, LoraPair[T]]) -> dict[str, Any]:
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


def _pair_faults(pairs: Mapping[str, LoraPair[T]]) -> list[str]:
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


def find(path: Path) -> Path:
    """The LoRA file that a path means: itself, or a folder's.

    Raises: ConfigError when a folder holds none.
    """
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


def unreadable(file: Path, error: Exception) -> ConfigError:
    """What to raise about a file that is no file of tensors."""
    allowed = f"a safetensors file, or a .bin of tensors only ({type(error).__name__}: {str(error)[:200]})"
    return ConfigError([Fault("file", "cannot be read", allowed)], what=f"adapter {file}")


def config_of(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """The LoraConfig per network as in the header ("unet.r": 4), from there or from the file beside."""
    if HEADER in header:
        return dict(json.loads(header[HEADER]))
    beside = file.with_name(PEFT_CONFIG)
    if file.name == PEFT_FILE and beside.is_file():
        config = json.loads(beside.read_text(encoding="utf-8"))
        return {f"{name}.{key}": value for name in NETWORKS for key, value in config.items()}
    return {}


def section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The entries of one network, or "jdx"."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}


def pairs_of(
    file: Path, state: Mapping[str, T], config: Mapping[str, Any], sizes: Sizes
) -> dict[Network, dict[str, LoraPair[T]]]:
    """The adapted layers of a file by network and canonical path, checked against the base they are meant for.

    alpha comes from `.alpha` weights, else the config, else it is the rank. Raises ConfigError with every unknown
    key, missing half, wrong shape, module that the base lacks, and non-finite weight.
    """
    parts, faults = _sort(state, sizes)
    networks: dict[Network, dict[str, LoraPair[T]]] = {"unet": {}, "text_encoder": {}}
    for (name, module), halves in parts.items():
        if {"down", "up"} <= halves.keys():
            networks[name][module] = _pair(halves, section(config, name), module)
        else:
            missing = "up" if "down" in halves else "down"
            faults.append(Fault(f"{name}.{module}", "", f"its {missing} weight is missing"))
    for name in NETWORKS:
        faults += _base_faults(networks[name], name, sizes[name])
    if not faults and not parts:
        faults = [Fault("keys", "none", "the file holds no LoRA weights")]
    if faults:
        raise ConfigError(_shortened(faults), what=f"adapter {file}")
    return networks


def _sort(
    state: Mapping[str, T], sizes: Sizes
) -> tuple[dict[tuple[Network, str], dict[str, T]], list[Fault]]:
    """Weights by (network, module) and half, and the names that mean nothing."""
    parts: dict[tuple[Network, str], dict[str, T]] = {}
    faults = []
    for key, tensor in state.items():
        meaning = parse(key)
        module = _module(meaning, sizes) if meaning else None
        if meaning is None or module is None:
            faults.append(Fault(key, "", "no LoRA weight of a linear layer that jdx can read"))
            continue
        parts.setdefault((meaning.network, module), {})[meaning.role] = tensor
    return parts, faults


def _module(meaning: LoraKey, sizes: Sizes) -> str | None:
    return unflatten(meaning.path, sizes[meaning.network]) if meaning.flat else meaning.path


def _pair(halves: Mapping[str, T], config: Mapping[str, Any], module: str) -> LoraPair[T]:
    down, up = halves["down"], halves["up"]
    rank = int(down.shape[0]) if down.ndim else 0
    magnitude = halves.get("magnitude")
    if "alpha" in halves:
        stated: Any = halves["alpha"]
        return LoraPair(down, up, float(stated), magnitude)
    alpha = float(config.get("lora_alpha", rank))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        # PEFT's rule: the pattern is the end of the path, at a dot.
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    # rsLoRA (Kalajdzievski 2023) scales by alpha / sqrt(r); the same factor as alpha·sqrt(r) / r
    return LoraPair(down, up, alpha * rank**0.5 if config.get("use_rslora") else alpha, magnitude)


def _base_faults(
    pairs: Mapping[str, LoraPair[T]], name: str, sizes: Mapping[str, tuple[int, int]]
) -> list[Fault]:
    found = []
    for path, pair in pairs.items():
        key = f"{name}.{path}"
        if path not in sizes:
            found.append(Fault(key, "", "this base model has no such linear layer"))
            continue
        d_out, d_in = sizes[path]
        down, up = tuple(pair.down.shape), tuple(pair.up.shape)
        if down != (pair.rank, d_in) or up != (d_out, pair.rank):
            wanted = f"down (r, {d_in}) and up ({d_out}, r) for this base model"
            found.append(Fault(key, f"down {down}, up {up}", wanted))
        elif pair.magnitude is not None and tuple(pair.magnitude.shape) != (d_out,):
            wanted = f"magnitude ({d_out},) for this base model"
            found.append(Fault(key, f"magnitude {tuple(pair.magnitude.shape)}", wanted))
        elif not pair.finite:
            found.append(Fault(key, "", "weights must be finite; the training that made them diverged"))
    return found


def _shortened(faults: Sequence[Fault]) -> list[Fault]:
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
