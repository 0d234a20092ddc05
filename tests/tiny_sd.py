"""A random-weight Stable Diffusion with SD 2.1's shape and a thousandth of its size, in diffusers layout.

Every block, attention slot and scheduler key of SD 2.1 is there, so module paths, LoRA targets and loaders
are the real ones; only the widths are tiny. The networks' last layers are scaled up so that pictures have
contrast: with default initialisation every picture would be the same grey and equality tests would pass by
accident.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"

# The scheduler file of stabilityai/stable-diffusion-2-1, prediction_type apart. Written as it is: with fewer
# keys than today's diffusers would save, every sampler falls back to its own timestep spacing.
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def byte_letters() -> list[str]:
    """GPT-2's 256 printable stand-ins for the byte values, in order of code point (Radford et al. 2019)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer over single bytes: 514 tokens spell any word; padded with "!" (id 0) as SD 2.1's."""
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), START, END]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(
        vocab=vocab,
        merges=[],
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token="!",
        model_max_length=77,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="gelu",
        pad_token_id=0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config)


def build_vae(resolution: int) -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=resolution,
        scaling_factor=0.18215,
    )
    vae.decoder.conv_out.weight.data *= 1.5
    vae.encoder.conv_out.weight.data *= 4.0
    return vae


def build_unet(resolution: int, cross_attention_dim: int) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=resolution // 8,
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        attention_head_dim=(
            2,
            4,
            4,
            4,
        ),  # heads per level (SD 2.1: 5, 10, 20, 20)
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=8,
        use_linear_projection=True,
    )
    unet.conv_out.weight.data *= 4.0
    return unet


def build_tiny_sd(
    folder: Path | str,
    *,
    prediction_type: str = "v_prediction",
    seed: int = 0,
    cross_attention_dim: int = 32,
    resolution: int = 64,
) -> Path:
    """Write the model to `folder` and return it; `StableDiffusionPipeline.from_pretrained` loads it.

    prediction_type: "v_prediction" (SD 2.1) or "epsilon" (SD 2.1 base). resolution: pixels, a multiple of 64.
    The weights are a function of `seed`; the caller's random state is left alone. About 4 MB and 0.5 s.
    """
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        pipeline = StableDiffusionPipeline(
            vae=build_vae(resolution),
            text_encoder=build_text_encoder(tokenizer, cross_attention_dim),
            tokenizer=tokenizer,
            unet=build_unet(resolution, cross_attention_dim),
            scheduler=DDIMScheduler.from_config(SCHEDULER, prediction_type=prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    _write_legacy_vocabulary(folder / "tokenizer", tokenizer)
    scheduler = json.dumps(SCHEDULER | {"prediction_type": prediction_type}, indent=2)
    (folder / "scheduler" / "scheduler_config.json").write_text(scheduler, encoding="utf-8")
    return folder


def _write_legacy_vocabulary(folder: Path, tokenizer: CLIPTokenizer) -> None:
    """vocab.json and merges.txt, which transformers 5 no longer writes but every published model has."""
    vocab = dict(tokenizer.get_vocab())
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
