"""From trained networks to the folder that ships: diffusers layout, float16 safetensors, digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from data.mini.denoiser import make_scheduler
from data.mini.tokenizer import save_tokenizer

SUMS = "SHA256SUMS"
LIMIT_BYTES = 40_000_000


def save_model(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    folder: Path,
) -> None:
    """Write `model_index.json`, `tokenizer/`, `text_encoder/`, `vae/`, `unet/` and `scheduler/`."""
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        unet=unet.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for part in ("unet", "vae"):
        _forget_origin(folder / part / "config.json")
    tidy_transformer(folder / "text_encoder", "text_model.")
    save_tokenizer(tokenizer, folder / "tokenizer")


def _forget_origin(config: Path) -> None:
    # diffusers notes the folder that a part was read from: of no use to anyone else.
    kept = json.loads(config.read_text(encoding="utf-8"))
    kept.pop("_name_or_path", None)
    config.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def tidy_transformer(folder: Path, prefix: str = "") -> None:
    """Make a transformers folder read the same everywhere: config says float32, keys carry SD 2.1's prefix.

    transformers 5 opens a model in the dtype that its config names, and would otherwise compute in float16;
    releases differ in whether they write the text tower's keys with `text_model.`, but all read them so.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {k: _as_float32(v) for k, v in config.items()} | {"dtype": "float32", "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    file = folder / "model.safetensors"
    state = {k if k.startswith(prefix) else prefix + k: v for k, v in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})


def _as_float32(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: "float32" if k in ("dtype", "torch_dtype") else _as_float32(v) for k, v in value.items()}
    return value


def digests(folder: Path, names: Iterable[Path]) -> str:
    """Lines of `sha256sum`, sorted by path relative to `folder`."""
    rows = sorted(
        (p.relative_to(folder).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()) for p in names
    )
    return "".join(f"{digest}  {name}\n" for name, digest in rows)


def shipped_files(weights: Path) -> list[Path]:
    """Every file of the model and the judges: all that `SHA256SUMS` covers."""
    return sorted(p for part in ("model", "judges") for p in (weights / part).rglob("*") if p.is_file())


def write_sums(weights: Path) -> None:
    """Write `SHA256SUMS`.

    Raises:
        ValueError: the files are larger than what the project allows itself to ship.
    """
    files = shipped_files(weights)
    total = sum(p.stat().st_size for p in files)
    if total > LIMIT_BYTES:
        raise ValueError(f"{weights}: {total:,} bytes of weights, at most {LIMIT_BYTES:,} are shipped")
    (weights / SUMS).write_text(digests(weights, files), encoding="utf-8")


def check_sums(weights: Path) -> list[str]:
    """Faults of a weights folder: changed, missing and unknown files. Empty when all is well."""
    rows = (weights / SUMS).read_text(encoding="utf-8").splitlines()
    told = {name: digest for digest, name in (row.split("  ", 1) for row in rows)}
    found = {p.relative_to(weights).as_posix(): p for p in shipped_files(weights)}
    faults = [f"{name}: missing" for name in sorted(told.keys() - found.keys())]
    faults += [f"{name}: not listed in {SUMS}" for name in sorted(found.keys() - told.keys())]
    for name in sorted(told.keys() & found.keys()):
        if hashlib.sha256(found[name].read_bytes()).hexdigest() != told[name]:
            faults.append(f"{name}: its bytes are not those that {SUMS} lists")
    return faults
