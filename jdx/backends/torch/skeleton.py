"""A model's modules without its weights, to see at once whether the names that a trial gives are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from jdx.backends.base import LoraSpec, ModelSpec, TokensSpec
from jdx.backends.layout import read_json
from jdx.backends.torch.blend import blend_layers
from jdx.backends.torch.cuts import say_cuts
from jdx.backends.torch.hub import locate
from jdx.backends.torch.models import load_tokenizer, quiet
from jdx.backends.torch.stacked import target_faults
from jdx.backends.torch.styleid_layers import resolve_layers
from jdx.backends.torch.token_files import names_of
from jdx.backends.torch.tokens import Vocabulary, token_faults
from jdx.errors import BackendError, ConfigError, Fault


def name_faults(
    spec: ModelSpec,
    targets: Mapping[str, Sequence[str]],
    layers: Mapping[str, Sequence[str]],
    tokens: Sequence[TokensSpec] = (),
) -> list[Fault]:
    """LoRA targets and self-attentions that this model lacks, keys `NETWORK.targets` and `USE.layers`.

    targets: {"unet" | "text_encoder": last parts of module paths}. layers: {"styleid" | "blend.c2f" | "blend.f2c":
    names}. tokens: words to be learnt, keys `tokens.token`, `tokens.init` and `tokens.vectors`. Reads configs and
    the tokenizer only, about 0.1 s for SD 2.1. Raises BackendError when the model cannot be had.
    """
    folder = locate(spec)
    networks = skeletons(folder)
    faults = [
        fault
        for name, some in targets.items()
        for fault in target_faults(networks[name], [LoraSpec(1, 1.0, tuple(some))], name)
    ]
    for use, names in layers.items():
        try:
            if use == "styleid":
                resolve_layers(networks["unet"], names)
            else:
                blend_layers(networks["unet"], names, use)
        except ConfigError as error:
            faults += [replace(fault, key=f"{use}.layers") for fault in error.faults]
    return [*faults, *(token_faults(load_tokenizer(folder), tokens) if tokens else ())]


def say_long_prompts(spec: ModelSpec, prompts: Sequence[str], tokens: Sequence[TokensSpec] = ()) -> None:
    """Warn of prompts that the model's text encoder would cut; reads the tokenizer and one config."""
    folder = locate(spec)
    tokenizer = load_tokenizer(folder)
    config, _ = read_json(folder / "text_encoder" / "config.json")
    places = int((config or {}).get("max_position_embeddings", tokenizer.model_max_length))
    words = (
        Vocabulary(tokenizer, [names_of(one.token, one.vectors) for one in tokens]) if tokens else tokenizer
    )
    say_cuts(words, prompts, min(tokenizer.model_max_length, places))


def skeletons(folder: Path) -> dict[str, nn.Module]:
    """The UNet and the text encoder on the meta device: modules with shapes, no memory."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    try:
        with quiet(), torch.device("meta"):
            unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(str(folder / "unet")))
            text = CLIPTextModel(CLIPTextConfig.from_pretrained(str(folder / "text_encoder")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BackendError(f"{folder}: its configs do not make a model: {error}") from error
    return {"unet": unet, "text_encoder": text}
