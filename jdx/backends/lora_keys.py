"""The names that LoRA weights go by in other people's files.

A weight's name says which network, which module and which half of the pair it is. Five dialects are read:

    unet.PATH.lora_A.weight                             diffusers with PEFT, and jdx
    unet.PATH.lora.down.weight                          diffusers 0.17-0.2x, the Jittor baseline
    text_encoder.PATH.lora_linear_layer.down.weight     the same for text encoders
    [unet.]PARENT.processor.to_q_lora.down.weight       diffusers before 0.17
    base_model.model.PATH.lora_A[.default].weight       PEFT's own save_pretrained
    lora_unet_PATH_WITH_UNDERSCORES.lora_down.weight    kohya, with .alpha beside

DoRA's lengths are `PATH.lora_magnitude_vector[.default][.weight]` in diffusers' and PEFT's files.

Text encoders: transformers 5 flattened CLIPTextModel, so `text_model.` is part of a path in files and in
older versions, and not in memory. Files always have it ("canonical"), as diffusers writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Network = Literal["unet", "text_encoder"]
Role = Literal["down", "up", "alpha", "magnitude"]

TEXT_PREFIX = "text_model."
_ENDS: tuple[tuple[str, Role], ...] = (
    (r"\.lora_A(?:\.[^.]+)?\.weight", "down"),
    (r"\.lora_B(?:\.[^.]+)?\.weight", "up"),
    (r"\.lora(?:_linear_layer)?\.down\.weight", "down"),
    (r"\.lora(?:_linear_layer)?\.up\.weight", "up"),
    (r"_lora\.down\.weight", "down"),
    (r"_lora\.up\.weight", "up"),
    (r"\.lora_down\.weight", "down"),
    (r"\.lora_up\.weight", "up"),
    (r"\.alpha", "alpha"),
    (r"\.lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?", "magnitude"),
)
_PATTERNS = tuple((re.compile(f"^(?P<path>.+?){end}$"), role) for end, role in _ENDS)
_PREFIXES: tuple[tuple[str, Network], ...] = (
    ("unet.", "unet"),
    ("text_encoder.", "text_encoder"),
    ("lora_unet_", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te_", "text_encoder"),
)
_STARTS: tuple[tuple[str, Network], ...] = (  # paths without a network's name
    ("down_blocks.", "unet"),
    ("mid_block.", "unet"),
    ("up_blocks.", "unet"),
    ("text_model.", "text_encoder"),
    ("encoder.layers.", "text_encoder"),
)
_OLD_TEXT_NAMES = {".to_q": ".q_proj", ".to_k": ".k_proj", ".to_v": ".v_proj", ".to_out.0": ".out_proj"}


@dataclass(frozen=True)
class LoraKey:
    """What a weight's name says. flat: kohya's path, its dots turned to underscores."""

    network: Network
    path: str
    role: Role
    flat: bool = False


def canonical_te_path(path: str) -> str:
    """A text encoder's module path as files have it: with `text_model.` in front, whatever memory says."""
    return path if path.startswith(TEXT_PREFIX) else TEXT_PREFIX + path


def memory_te_path(path: str, flattened: bool) -> str:
    """The module's path in memory; `flattened` as transformers 5's CLIPTextModel, without text_model."""
    return canonical_te_path(path).removeprefix(TEXT_PREFIX) if flattened else canonical_te_path(path)


def parse(key: str) -> LoraKey | None:
    """The meaning of a weight's name; None when it is in no known dialect."""
    for pattern, role in _PATTERNS:
        if match := pattern.match(key):
            return _located(match["path"], role)
    return None


def _located(path: str, role: Role) -> LoraKey | None:
    path = path.removeprefix("base_model.model.")
    for prefix, network in _PREFIXES:
        if path.startswith(prefix):
            flat = prefix.startswith("lora_")
            return LoraKey(network, _modern(path.removeprefix(prefix), network, flat), role, flat)
    for start, network in _STARTS:
        if path.startswith(start):
            return LoraKey(network, _modern(path, network, False), role)
    return None


def _modern(path: str, network: Network, flat: bool) -> str:
    if flat:
        return path
    path = path.replace(".processor.", ".")
    if path.endswith(".to_out"):
        path += ".0"
    if network == "text_encoder":
        for old, new in _OLD_TEXT_NAMES.items():
            path = path.removesuffix(old) + new if path.endswith(old) else path
        path = canonical_te_path(path)
    return path


def unflatten(flat: str, paths: Iterable[str]) -> str | None:
    """The module path whose dots as underscores give `flat` (kohya); None when there is none."""
    return next((path for path in paths if path.replace(".", "_") == flat), None)
