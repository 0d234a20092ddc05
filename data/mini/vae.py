"""The small autoencoder: AutoencoderKL (Rombach et al. 2022), 128 px → 4×16×16, true to colours.

The contest's histogram score compares colour counts, so the autoencoder must return not only shapes but the
very distribution of colours: the loss has a sliced Wasserstein term over the colours of each picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from data.mini.training import Plan, Shuffle, Stage, autocast, generator
from evaluation.trunks import ConvTrunk

SCALING_FACTOR = 0.18215  # SD 2.1's; `normalise` makes it true for this autoencoder too
CHUNK = 256


@dataclass(frozen=True)
class VaeSize:
    """Channels per resolution (128, 64, 32, 16 pixels) and residual blocks per resolution."""

    channels: tuple[int, ...] = (32, 64, 96, 128)
    layers: int = 2
    groups: int = 16


@dataclass(frozen=True)
class VaeWeights:
    """Weights of the loss terms: L1 + perceptual + sliced Wasserstein + KL, all means per element."""

    perceptual: float = 0.15
    colours: float = 1.0
    kl: float = 3e-4


def make_vae(size: VaeSize) -> AutoencoderKL:
    """An untrained autoencoder with SD 2.1's keys."""
    n = len(size.channels)
    return AutoencoderKL(
        block_out_channels=size.channels,
        layers_per_block=size.layers,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        norm_num_groups=size.groups,
        sample_size=16 * 2 ** (n - 1),
        scaling_factor=SCALING_FACTOR,
    )


def as_input(pictures: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) → float (B, 3, H, W) in [−1, 1]."""
    return pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def vary(x: Tensor, rng: torch.Generator) -> Tensor:
    """Mirrored, channels exchanged, inverted or faded, so no palette is learnt by heart; x in [−1, 1]."""
    chance = torch.rand((5, x.shape[0], 1, 1, 1), generator=rng, device=x.device)
    x = torch.where(chance[0] < 0.5, x.flip(-1), x)
    order = torch.rand((x.shape[0], 3), generator=rng, device=x.device).argsort(1)
    mixed = x.gather(1, order[:, :, None, None].expand_as(x))
    x = torch.where(chance[1] < 0.3, mixed, x)
    x = torch.where(chance[2] < 0.1, -x, x)
    gain = 1 - 0.4 * torch.rand((x.shape[0], 3, 1, 1), generator=rng, device=x.device)
    shift = (1 - gain) * (2 * torch.rand(gain.shape, generator=rng, device=x.device) - 1)
    return torch.where(chance[3] < 0.4, x * gain + shift, x)


def sliced_wasserstein(
    a: Tensor, b: Tensor, rng: torch.Generator, axes: int = 5, places: int = 4096
) -> Tensor:
    """W1 of two pictures' colour distributions over random axes (Rabin et al. 2011) and the channels.

    a, b: (B, 3, H, W). In one dimension W1 is the mean distance of the sorted values.
    """
    pick = torch.randint(0, a[0, 0].numel(), (places,), generator=rng, device=a.device)
    random_axes = F.normalize(torch.randn((axes, 3), generator=rng, device=a.device), dim=1)
    theta = torch.cat([torch.eye(3, device=a.device), random_axes])
    p, q = (torch.einsum("kc,bcn->bkn", theta, x.float().flatten(2)[:, :, pick]) for x in (a, b))
    return (p.sort(-1).values - q.sort(-1).values).abs().mean()


def perceptual(critic: ConvTrunk, a: Tensor, b: Tensor) -> Tensor:
    """LPIPS with uniform heads (Zhang et al. 2018): squared distance of features normalised over channels."""
    terms = [
        (F.normalize(p, dim=1) - F.normalize(q, dim=1)).square().sum(1).mean()
        for p, q in zip(critic(a), critic(b), strict=True)
    ]
    return torch.stack(terms).mean()


def _moments(vae: AutoencoderKL, x: Tensor) -> tuple[Tensor, Tensor]:
    mean, logvar = vae.quant_conv(vae.encoder(x)).float().chunk(2, dim=1)
    return mean, logvar.clamp(-30, 20)


def fit_vae(vae: AutoencoderKL, critic: ConvTrunk, pictures: Tensor, stage: Stage, seed: int) -> None:
    """Train on uint8 pictures (N, H, W, 3) until the plan ends; the averaged weights are in place after."""
    device, weights = pictures.device, VaeWeights()
    shuffle = Shuffle(len(pictures), stage.plan.batch, seed, device)

    # Tensor cores want channels last; saves a transposition around every convolution.
    vae.to(memory_format=torch.channels_last)
    critic.to(memory_format=torch.channels_last)

    def body(x: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        with autocast(device):
            mean, logvar = _moments(vae, x)
            y = vae.decoder(vae.post_quant_conv(mean + (0.5 * logvar).exp() * eps)).float()
            seen = perceptual(critic, y, x)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return y, (y - x).abs().mean(), seen.float(), kl

    run: Callable[..., Any] = torch.compile(body) if device.type == "cuda" else body

    def losses(step: int) -> dict[str, Tensor]:
        rng = generator(device, seed, 1, step)
        x = vary(as_input(pictures[shuffle(step)]), rng).contiguous(memory_format=torch.channels_last)
        eps = torch.randn((x.shape[0], 4, x.shape[2] // 8, x.shape[3] // 8), generator=rng, device=device)
        y, l1, seen, kl = run(x, eps)
        colours = sliced_wasserstein(y, x, rng)
        loss = l1 + weights.perceptual * seen + weights.colours * colours + weights.kl * kl
        return {"loss": loss, "l1": l1, "perceptual": seen, "colours": colours, "kl": kl}

    stage.fit(losses)
    stage.averaged()


def _chunks(pictures: Tensor) -> tuple[Tensor, ...]:
    return torch.split(pictures, CHUNK)


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and deviation of all pictures, float16 (N, 4, h, w) each, times the scaling factor."""
    means, stds = [], []
    for chunk in _chunks(pictures):
        mean, logvar = _moments(vae, as_input(chunk))
        means.append((mean * SCALING_FACTOR).half())
        stds.append(((0.5 * logvar).exp() * SCALING_FACTOR).half())
    return torch.cat(means), torch.cat(stds)


@torch.no_grad()
def normalise(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Fold an affine map into the two 1×1 convolutions: each latent channel gets mean 0 and std 1 / .18215.

    SD 2.1's scaling factor then gives latents of unit variance, and pure noise starts at the average
    picture's latent, as it does there.
    """
    mean = torch.cat([_moments(vae, as_input(chunk))[0] for chunk in _chunks(pictures)])
    shift, scale = mean.mean((0, 2, 3)), mean.std((0, 2, 3)) * SCALING_FACTOR
    enter, leave = vae.quant_conv, vae.post_quant_conv
    enter.weight[:4] /= scale.view(4, 1, 1, 1)
    enter.bias[:4].sub_(shift).div_(scale)
    enter.bias[4:].sub_(2 * scale.log())
    leave.bias.add_(leave.weight[:, :, 0, 0] @ shift)
    leave.weight.mul_(scale.view(1, 4, 1, 1))


@torch.no_grad()
def round_trip(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """uint8 pictures encoded (posterior mode) and decoded, uint8 (N, H, W, 3)."""
    out = []
    for chunk in _chunks(pictures):
        y = vae.decode(_moments(vae, as_input(chunk))[0]).sample
        out.append(((y + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1))
    return torch.cat(out)


def vae_plan(minutes: float) -> Plan:
    """The recipe of the shipped weights."""
    return Plan(steps=100_000, seconds=60 * minutes, batch=32, lr=5e-4, ema=0.999, weight_decay=0.0)


def save_vae(vae: AutoencoderKL, folder: Path) -> None:
    """Write in diffusers layout, float16."""
    vae.half().save_pretrained(folder)
