"""Stable Diffusion 2.1's sizes with random weights, on disk in diffusers layout: time does not depend on weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from filelock import FileLock
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.tiny_sd import SCHEDULER, build_tokenizer

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def unet() -> UNet2DConditionModel:
    """865.9 M parameters."""
    return UNet2DConditionModel(
        sample_size=96,
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
    )


def vae() -> AutoencoderKL:
    """83.7 M parameters."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=768,
        scaling_factor=0.18215,
    )


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """OpenCLIP ViT-H's text tower without its last layer; only the table of words is small."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=1024,
            intermediate_size=4096,
            projection_dim=512,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
            pad_token_id=0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def once(folder: Path, write: Callable[[Path], Path]) -> Path:
    """The folder of a model, written by the first process that asks for it; others wait until it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        return folder if (folder / "model_index.json").is_file() else write(folder)


def write(folder: Path, device: torch.device, seed: int = 0) -> Path:
    """Write the model (2.6 GiB; networks in bfloat16, the VAE in float32), its index last, and return its folder."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    with device:
        parts = {
            "unet": unet().to(torch.bfloat16),
            "vae": vae(),
            "text_encoder": text_encoder(tokenizer).to(torch.bfloat16),
        }
    for name, network in parts.items():
        network.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    scheduler = {**SCHEDULER, "prediction_type": "v_prediction"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
