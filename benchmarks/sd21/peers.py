"""What people run today, plainly: diffusers' DreamBooth-LoRA loop, its pipeline, StyleID picture by picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from peft import LoraConfig
from torch import Tensor

from benchmarks.sd21.measure import median_rate, peak, wait
from benchmarks.sd21.model import ATTENTION

RANK = 32
WINDOW = 5
"""Steps between two looks at the clock."""


def pipeline(folder: Path, device: torch.device, dtype: torch.dtype) -> StableDiffusionPipeline:
    """The model as a diffusers user loads it, in one precision."""
    made: Any = StableDiffusionPipeline.from_pretrained(str(folder), torch_dtype=dtype, safety_checker=None)
    made.set_progress_bar_config(disable=True)
    return made.to(device)


def script_rate(
    pipe: Any, device: torch.device, steps: int, resolution: int, *, whole_step: bool
) -> tuple[float, float]:
    """(samples/s, GiB) of the DreamBooth-LoRA script's step: one instance and one class picture, rank 32, bfloat16.

    whole_step: with the VAE encoding of both pictures and the text encoding of both prompts, as the script does each
    time; without, the UNet's part alone. Adapters in bfloat16 as the base (the script casts them to float32 with
    --mixed_precision=fp16 only), autocast, clipping, AdamW and the loss read every step, as there.
    """
    unet: UNet2DConditionModel = pipe.unet
    unet.requires_grad_(False).train()
    unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=list(ATTENTION))
    )
    trained = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    side = resolution // 8
    pixels = torch.rand(2, 3, resolution, resolution, device=device, dtype=unet.dtype) * 2 - 1
    latents = torch.randn(2, 4, side, side, device=device, dtype=unet.dtype)
    with torch.no_grad():
        states = encode_text(pipe, ["a picture in sks style", "a picture"], device)

    def step() -> float:
        z, text = latents, states
        if whole_step:
            with torch.no_grad():
                vae: AutoencoderKL = pipe.vae
                z = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
                text = encode_text(pipe, ["a picture in sks style", "a picture"], device)
        noise = torch.randn_like(z)
        t = torch.randint(0, 1000, (2,), device=device)
        with torch.autocast(device.type, torch.bfloat16):
            out = unet(scheduler.add_noise(z, noise, t), t, text, return_dict=False)[0]
        target = scheduler.get_velocity(z, noise, t)
        (out, out_prior), (want, want_prior) = out.chunk(2), target.chunk(2)
        loss = F.mse_loss(out.float(), want.float()) + F.mse_loss(out_prior.float(), want_prior.float())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach().item())

    with peak() as gib:
        rate = _rate(step, steps)
    unet.delete_adapters("default")
    return 2 * rate, gib[0]


def _rate(step: Callable[[], float], steps: int) -> float:
    for _ in range(WINDOW):
        step()
    stamps = [(time.perf_counter(), 0.0)]
    for done in range(1, steps + 1):
        step()
        if done % WINDOW == 0:
            wait()
            stamps.append((time.perf_counter(), float(done)))
    return median_rate([stamps])


def encode_text(pipe: Any, prompts: Sequence[str], device: torch.device) -> Tensor:
    """The text encoder's last hidden states."""
    ids = pipe.tokenizer(
        list(prompts), padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    states: Tensor = pipe.text_encoder(ids.input_ids.to(device))[0]
    return states


def pictures_per_second(
    pipe: Any, prompts: int, calls: int, resolution: int, steps: int
) -> tuple[float, float]:
    """(pictures/s, GiB) of pipeline calls with so many prompts each: UniPC, guidance 7.5, decoded."""
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)

    def call(count: int = steps) -> None:
        pipe(
            ["a picture of a thing"] * prompts, num_inference_steps=count, height=resolution, width=resolution
        )

    call(2)
    with peak() as gib:
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        seconds = time.perf_counter() - start
    return prompts * calls / seconds, gib[0]


Kept = dict[str, dict[int, tuple[Tensor, Tensor, Tensor]]]
"""What the layers were given, pass by pass."""


class _Plain:
    """Self-attention that remembers or takes its inputs, pass by pass, one picture at a time."""

    def __init__(self, keep: dict[int, tuple[Tensor, Tensor, Tensor]], clock: list[int]):
        self.keep, self.clock = keep, clock
        self.style: dict[int, tuple[Tensor, Tensor, Tensor]] | None = None

    def __call__(self, attn: Any, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        now = self.clock[0]
        if self.style is None:
            self.keep[now] = (q, k, v)
        else:
            q = 0.75 * self.keep[now][0] + 0.25 * q
            k, v = self.style[now][1:]
            q = q * 1.5
        n = q.shape[0]
        heads = [x.view(n, -1, attn.heads, x.shape[-1] // attn.heads).transpose(1, 2) for x in (q, k, v)]
        out: Tensor = attn.to_out[0](F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return out


def styleid_seconds(
    pipe: Any, device: torch.device, steps: int, resolution: int, layers: Sequence[str]
) -> tuple[float, float]:
    """(seconds of one picture, of one style picture) of StyleID without batching, with guidance's doubled batch.

    Every inversion keeps queries, keys and values of the injected layers; a picture is inverted, then drawn.
    """
    unet = pipe.unet
    blank = encode_text(pipe, ["", ""], device).detach()
    latent = torch.randn(1, 4, resolution // 8, resolution // 8, device=device, dtype=unet.dtype)
    forward = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    back = DDIMScheduler.from_config(pipe.scheduler.config)
    for scheduler in (forward, back):
        scheduler.set_timesteps(steps, device=device)
    attentions = dict(unet.named_modules())
    clock = [0]

    def run(scheduler: Any, x: Tensor, order: Sequence[int], kept: Kept, style: Kept | None) -> Tensor:
        plain = {name: _Plain(kept.setdefault(name, {}), clock) for name in layers}
        old = {name: attentions[name].processor for name in layers}
        for name, processor in plain.items():
            processor.style = None if style is None else style[name]
            attentions[name].set_processor(processor)
        for clock[0], t in zip(order, scheduler.timesteps, strict=True):
            both = unet(torch.cat([x, x]), t, blank, return_dict=False)[0]
            without, given = both.chunk(2)
            x = scheduler.step(without + 1.0 * (given - without), t, x, return_dict=False)[0]
        for name, processor in old.items():
            attentions[name].set_processor(processor)
        return x

    up, down = list(range(steps)), list(reversed(range(steps)))
    with torch.no_grad():
        run(forward, latent, up, {}, None)  # warm-up
        wait()
        start = time.perf_counter()
        style: Kept = {}
        run(forward, latent, up, style, None)
        wait()
        middle = time.perf_counter()
        content: Kept = {}
        noise = run(forward, latent, up, content, None)
        pipe.vae.decode(run(back, noise, down, content, style) / pipe.vae.config.scaling_factor)
        wait()
    return time.perf_counter() - middle, middle - start
