"""The small denoiser: SD 2.1's UNet pattern with its text encoder, v-prediction (Salimans & Ho 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from data.mini.training import Plan, Shuffle, Stage, autocast, generator

STEPS = 1000
SD21_BETAS = (0.00085, 0.012)
SIGMA_RATIO = 2.0  # half the way in powers of two to 64 / 16: see `shifted_betas`
CAPTION_DROP = 0.1


@dataclass(frozen=True)
class DenoiserSize:
    """UNet channels at 16, 8, 4 and 2 latent pixels, text encoder width, in heads of `head` channels."""

    channels: tuple[int, ...] = (96, 96, 128, 64)
    text: int = 160
    text_layers: int = 3
    head: int = 32
    groups: int = 32
    layers: int = 2


def terminal_sigma(betas: tuple[float, float], steps: int = STEPS) -> float:
    """σ = √((1 − ᾱ)/ᾱ) after the last step of the `scaled_linear` schedule (√β linear from start to end)."""
    a, b = (math.sqrt(x) for x in betas)
    log_bar = sum(math.log1p(-((a + (b - a) * t / (steps - 1)) ** 2)) for t in range(steps))
    return math.sqrt(math.expm1(-log_bar))


def shifted_betas(ratio: float = SIGMA_RATIO, steps: int = STEPS) -> tuple[float, float]:
    """SD 2.1's schedule for a latent `ratio` times smaller a side (Hoogeboom et al. 2023, sec. 3.1).

    The mean of n × n noise pixels has the standard deviation σ/n, so with ratio 4 a picture's mean colour would
    be as visible at the last step as in SD 2.1, and pictures begun from noise would keep the noise's medium
    brightness: a style's dark ground was out of an adapter's reach. With 1 nothing is left of an average start.
    2 lies between. Both ends of the schedule are moved by exactly the ratio; `scaled_linear` then fixes the
    middle. With σ_0² = β/(1 − β) at the start; the end by bisection.
    """
    low = SD21_BETAS[0] / (1 - SD21_BETAS[0]) / ratio**2
    start, goal = low / (1 + low), terminal_sigma(SD21_BETAS, steps) / ratio
    a, b = start, SD21_BETAS[1]
    for _ in range(100):
        middle = 0.5 * (a + b)
        a, b = (middle, b) if terminal_sigma((start, middle), steps) < goal else (a, middle)
    return start, 0.5 * (a + b)


def make_scheduler() -> DDIMScheduler:
    """SD 2.1's scheduler config, with the two betas moved for a 16×16 latent."""
    start, end = shifted_betas()
    return DDIMScheduler(
        num_train_timesteps=STEPS,
        beta_start=float(f"{start:.6g}"),
        beta_end=float(f"{end:.6g}"),
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def make_unet(size: DenoiserSize) -> UNet2DConditionModel:
    """SD 2.1's blocks, with `up_blocks.{1,2,3}.attentions.{0,1,2}`; `attention_head_dim` counts heads."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=size.layers,
        block_out_channels=size.channels,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=size.text,
        attention_head_dim=[max(1, c // size.head) for c in size.channels],
        use_linear_projection=True,
        norm_num_groups=size.groups,
    )


def make_text_encoder(size: DenoiserSize, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text tower (Radford et al. 2021), GELU as in SD 2.1."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.text,
        intermediate_size=4 * size.text,
        projection_dim=size.text,
        num_hidden_layers=size.text_layers,
        num_attention_heads=max(1, size.text // size.head),
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def tokens(tokenizer: CLIPTokenizer, texts: Sequence[str], device: torch.device) -> Tensor:
    """Token ids (len(texts), model_max_length), padded and cut as the pipeline does."""
    ids = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    return torch.as_tensor(ids, device=device)


@dataclass(frozen=True)
class Latents:
    """Posterior moments (N, 4, h, w), a caption number for each, token ids of all captions and of ""."""

    mean: Tensor
    std: Tensor
    caption: Tensor
    ids: Tensor
    empty: Tensor


def fit_denoiser(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, data: Latents, stage: Stage, seed: int
) -> None:
    """Minimise E‖v̂(x_t, t, E(y)) − v‖², x_t = √ᾱ z + √(1−ᾱ) ε, v = √ᾱ ε − √(1−ᾱ) z, over both networks."""
    device = data.mean.device
    bar = make_scheduler().alphas_cumprod.to(device)
    shuffle = Shuffle(len(data.mean), stage.plan.batch, seed, device)

    unet.to(memory_format=torch.channels_last)

    def body(x: Tensor, t: Tensor, ids: Tensor, v: Tensor) -> Tensor:
        with autocast(device):
            hidden = text_encoder(ids).last_hidden_state
            predicted = unet(x, t, hidden, return_dict=False)[0]
        return F.mse_loss(predicted.float(), v)

    run: Callable[..., Any] = torch.compile(body) if device.type == "cuda" else body

    def losses(step: int) -> dict[str, Tensor]:
        rng = generator(device, seed, 2, step)
        pick = shuffle(step)
        mean = data.mean[pick].float()
        eps = torch.randn((2, *mean.shape), generator=rng, device=device)
        z = mean + data.std[pick].float() * eps[0]
        t = torch.randint(0, STEPS, (len(z),), generator=rng, device=device)
        a, s = (x.sqrt().view(-1, 1, 1, 1) for x in (bar[t], 1 - bar[t]))
        drop = torch.rand((len(z), 1), generator=rng, device=device) < CAPTION_DROP
        ids = torch.where(drop, data.empty, data.ids[data.caption[pick]])
        noisy = (a * z + s * eps[1]).contiguous(memory_format=torch.channels_last)
        return {"loss": run(noisy, t, ids, a * eps[1] - s * z)}

    stage.fit(losses)
    stage.averaged()


def denoiser_plan(minutes: float) -> Plan:
    """The recipe of the shipped weights."""
    return Plan(steps=100_000, seconds=60 * minutes, batch=1024, lr=8e-4, ema=0.9993)
