"""What a folder must hold to be a Stable Diffusion 1.x or 2.x; only names and configs are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COMPONENTS = {  # folder: (accepted classes, stem of its weight files)
    "unet": (("UNet2DConditionModel",), "diffusion_pytorch_model"),
    "vae": (("AutoencoderKL",), "diffusion_pytorch_model"),
    "text_encoder": (("CLIPTextModel",), "model"),
    "tokenizer": (("CLIPTokenizer", "CLIPTokenizerFast"), ""),
}
FOREIGN = ("text_encoder_2", "transformer", "image_encoder", "controlnet", "prior")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


def folder_faults(folder: Path, variant: str | None = None) -> list[str]:
    """Everything that keeps `folder` from being a Stable Diffusion 1.x/2.x in diffusers layout."""
    index, faults = read_json(folder / "model_index.json")
    if index is None:
        hint = (
            "give the folder that holds model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/"
        )
        return [f"{faults}; {hint}"]
    if refusal := foreign(index):
        return [refusal]
    found: list[str] = []
    configs: dict[str, dict[str, Any]] = {}
    for name, (classes, stem) in COMPONENTS.items():
        found += _component_faults(folder, name, classes, stem, index, variant, configs)
    found += _scheduler_faults(folder, configs)
    return found + _shape_faults(configs)


def weight_file(folder: Path, stem: str, variant: str | None) -> Path | None:
    """A component's weights (or the index of its shards) in the variant asked for; None when absent."""
    middle = f".{variant}" if variant else ""
    names = (f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a model's files, so that an exchanged model is not taken from a cache."""
    files = sorted(p for p in folder.glob("*/*") if p.suffix in (".safetensors", ".json", ".txt"))
    return tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files)


def read_json(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The JSON object in a file and "", or None and what is wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, f"{path} is missing"
    except (OSError, ValueError) as error:
        return None, f"{path} cannot be read ({error})"
    return (content, "") if isinstance(content, dict) else (None, f"{path} holds no JSON object")


def foreign(index: dict[str, Any]) -> str:
    """Why a model_index.json is not of a Stable Diffusion 1.x/2.x; empty when it is."""
    pipeline = str(index.get("_class_name", "unknown"))
    extra = [name for name in FOREIGN if (index.get(name) or [None])[0] is not None]
    if not extra and "XL" not in pipeline:
        return ""
    parts = f" with {', '.join(extra)}" if extra else ""
    return (
        f"it is a {pipeline}{parts}; only Stable Diffusion 1.x and 2.x (one text encoder, one UNet) work here"
    )


def _component_faults(
    folder: Path,
    name: str,
    classes: tuple[str, ...],
    stem: str,
    index: dict[str, Any],
    variant: str | None,
    configs: dict[str, dict[str, Any]],
) -> list[str]:
    given = (index.get(name) or [None, None])[1]
    if given not in classes:
        return [f"model_index.json names {given} as {name}; allowed: {', '.join(classes)}"]
    if name == "tokenizer":
        if any(all((folder / name / file).is_file() for file in files) for files in TOKENIZER_FILES):
            return []
        return [f"{folder / name} holds neither tokenizer.json nor vocab.json with merges.txt"]
    config, fault = read_json(folder / name / "config.json")
    if config is None:
        return [fault]
    configs[name] = config
    return _weight_faults(folder / name, stem, variant)


def _weight_faults(folder: Path, stem: str, variant: str | None) -> list[str]:
    file = weight_file(folder, stem, variant)
    if file is None:
        wanted = f"{stem}{'.' + variant if variant else ''}.safetensors"
        there = sorted(p.name for p in folder.glob("*") if p.suffix in (".safetensors", ".bin", ".ckpt"))
        kept = f"there are: {', '.join(there)}" if there else "there are no weights"
        return [
            f"{folder / wanted} is missing; {kept} (model.variant picks another safetensors file; "
            "pickled weights are not read)"
        ]
    if file.suffix == ".json":
        index, fault = read_json(file)
        shards = sorted(set((index or {}).get("weight_map", {}).values()))
        lost = [shard for shard in shards if not (folder / shard).is_file()]
        return [fault] if index is None else [f"{folder / shard} is missing" for shard in lost]
    return []


def _scheduler_faults(folder: Path, configs: dict[str, dict[str, Any]]) -> list[str]:
    config, fault = read_json(folder / "scheduler" / "scheduler_config.json")
    if config is None:
        return [fault]
    configs["scheduler"] = config
    kind = config.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        return [f"scheduler_config.json: prediction_type = {kind!r}; allowed: {', '.join(PREDICTIONS)}"]
    return []


def _shape_faults(configs: dict[str, dict[str, Any]]) -> list[str]:
    """Contradictions between components: inpainting and depth UNets, a text encoder of another model."""
    if not configs.keys() >= {"unet", "vae", "text_encoder"}:
        return []
    unet, vae, text = configs["unet"], configs["vae"], configs["text_encoder"]
    found = []
    channels, latent = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latent:
        found.append(
            f"the UNet takes {channels} channels and the VAE makes {latent}: an inpainting, depth or "
            "upscaling model; give the text-to-image model"
        )
    width, hidden = unet.get("cross_attention_dim"), text.get("hidden_size")
    if isinstance(width, int) and isinstance(hidden, int) and width != hidden:
        found.append(f"the UNet reads text of width {width} and the text encoder writes {hidden}")
    for key in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        if unet.get(key) is not None:
            found.append(
                f"unet/config.json: {key} = {unet[key]!r} needs inputs that plain Stable Diffusion lacks"
            )
    return found
