"""Random changes of pictures on the GPU: functions of ((B, 3, H, W) in [0, 1], generator).

The judges must read styles that nobody trained them on, so what they see is varied far beyond the training
styles. One limit keeps the held-out styles held out: nothing here inverts lightness, so no light line on a
dark ground and no glow arises that was not in the training pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Change = Callable[[Tensor, torch.Generator], Tensor]


def _uniform(x: Tensor, rng: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    size = (x.shape[0], *(shape or (1, 1, 1)))
    return low + (high - low) * torch.rand(size, generator=rng, device=x.device)


def sometimes(change: Change, p: float, x: Tensor, rng: torch.Generator) -> Tensor:
    """The change for a random share p of the batch, the pictures themselves for the others."""
    chosen = _uniform(x, rng, 0, 1) < p
    return torch.where(chosen, change(x, rng), x)


def lightness(x: Tensor) -> Tensor:
    """Rec. 601 luma, (B, 1, H, W)."""
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def move(x: Tensor, rng: torch.Generator) -> Tensor:
    """Turn up to 12°, scale .8 to 1.2 per axis, shift up to a tenth; the border is mirrored in."""
    angle = _uniform(x, rng, -0.21, 0.21).flatten()
    sx, sy, tx, ty = _uniform(x, rng, -1, 1, 4).unbind(1)
    cos, sin, sx, sy = angle.cos(), angle.sin(), 1 + 0.2 * sx, 1 + 0.2 * sy
    rows = torch.stack([cos * sx, -sin * sy, 0.2 * tx, sin * sx, cos * sy, 0.2 * ty], 1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def mirror(x: Tensor, rng: torch.Generator) -> Tensor:
    """Left and right exchanged."""
    return x.flip(-1)


def recolour(x: Tensor, rng: torch.Generator) -> Tensor:
    """Channels mixed by rows that sum to one (greys stay), then a gamma and a gain for each channel."""
    mix = torch.softmax(3 * torch.randn((x.shape[0], 3, 3), generator=rng, device=x.device), -1)
    x = torch.einsum("bij,bjhw->bihw", mix, x)
    x = x.clamp(1e-3, 1) ** torch.exp(_uniform(x, rng, -0.7, 0.7, 3, 1, 1))
    return x * _uniform(x, rng, 0.6, 1, 3, 1, 1)


def two_tone(x: Tensor, rng: torch.Generator) -> Tensor:
    """Lightness mapped to a ramp from a random dark to a random light colour."""
    dark, light = _uniform(x, rng, 0, 0.5, 3, 1, 1), _uniform(x, rng, 0.55, 1, 3, 1, 1)
    return torch.lerp(dark, light, lightness(x))


def contrast(x: Tensor, rng: torch.Generator) -> Tensor:
    """Contrast .4 to 1.6 about a random middle."""
    middle = _uniform(x, rng, 0.35, 0.65)
    return (middle + (x - middle) * _uniform(x, rng, 0.4, 1.6)).clamp(0, 1)


def outline(x: Tensor, rng: torch.Generator) -> Tensor:
    """Edges only, as dark lines on a lighter ground (two random colours)."""
    y = F.pad(lightness(x), (1, 1, 1, 1), mode="replicate")
    dx, dy = y[..., 1:-1, 2:] - y[..., 1:-1, :-2], y[..., 2:, 1:-1] - y[..., :-2, 1:-1]
    line = ((dx.square() + dy.square() + 1e-8).sqrt() * _uniform(x, rng, 1.5, 4)).clamp(0, 1)
    ground, ink = _uniform(x, rng, 0.6, 1, 3, 1, 1), _uniform(x, rng, 0, 0.45, 3, 1, 1)
    return torch.lerp(ground, ink, line)


def blur(x: Tensor, rng: torch.Generator) -> Tensor:
    """A Gaussian of σ .4 to 2 pixels, its own for every picture."""
    n = x.shape[0]
    sigma = _uniform(x, rng, 0.4, 2, 1)
    t = torch.arange(-4, 5, device=x.device).float()
    k = torch.softmax(-t.square() / (2 * sigma.square()), -1).repeat_interleave(3, 0)
    y = F.pad(x, (4, 4, 4, 4), mode="replicate").reshape(1, 3 * n, x.shape[2] + 8, x.shape[3] + 8)
    y = F.conv2d(y, k[:, None, None, :], groups=3 * n)
    return F.conv2d(y, k[:, None, :, None], groups=3 * n).reshape(x.shape)


def grain(x: Tensor, rng: torch.Generator) -> Tensor:
    """Noise of a random strength (σ up to .15) and a random grain size of 1, 2, 4 or 8 pixels."""
    size = 2 ** int(torch.randint(0, 4, (1,), generator=rng, device=x.device))
    small = (x.shape[0], 1, x.shape[2] // size, x.shape[3] // size)
    noise = torch.randn(small, generator=rng, device=x.device)
    noise = F.interpolate(noise, size=x.shape[2:], mode="bilinear", align_corners=False)
    return (x + noise * _uniform(x, rng, 0, 0.15)).clamp(0, 1)


def stripes(x: Tensor, rng: torch.Generator) -> Tensor:
    """A faint sinusoid across the picture: any direction, 3 to 16 pixels long."""
    h, w = x.shape[2:]
    angle, phase = _uniform(x, rng, 0, math.pi), _uniform(x, rng, 0, 2 * math.pi)
    rate = 2 * math.pi / _uniform(x, rng, 3, 16)
    rows = torch.arange(h, device=x.device).float().view(1, 1, h, 1)
    columns = torch.arange(w, device=x.device).float().view(1, 1, 1, w)
    wave = torch.sin(rate * (rows * angle.sin() + columns * angle.cos()) + phase)
    return (x + wave * _uniform(x, rng, 0, 0.12)).clamp(0, 1)


def pixelate(x: Tensor, rng: torch.Generator) -> Tensor:
    """Blocks of 2 or 4 pixels."""
    size = 2 ** int(torch.randint(1, 3, (1,), generator=rng, device=x.device))
    return F.interpolate(F.avg_pool2d(x, size), scale_factor=size, mode="nearest")


def wash(x: Tensor, rng: torch.Generator) -> Tensor:
    """Contrast lost towards a random grey: what remains is a tenth to four tenths."""
    return torch.lerp(_uniform(x, rng, 0.3, 0.8).expand_as(x), x, _uniform(x, rng, 0.1, 0.4))


def restyle(x: Tensor, rng: torch.Generator) -> Tensor:
    """Changes of colour, line and texture, as one could meet in an unknown style; place and shape stay."""
    steps: tuple[tuple[Change, float], ...] = (
        (outline, 0.12),
        (recolour, 0.5),
        (two_tone, 0.2),
        (contrast, 0.3),
        (blur, 0.2),
        (stripes, 0.2),
        (grain, 0.3),
    )
    for change, p in steps:
        x = sometimes(change, p, x, rng)
    return x


def replace_view(x: Tensor, rng: torch.Generator) -> Tensor:
    """Changes of place and size: another framing of the same drawing."""
    return sometimes(mirror, 0.3, sometimes(move, 0.8, x, rng), rng)


def spoil(x: Tensor, rng: torch.Generator) -> Tensor:
    """What nobody calls a good picture: strong noise, strong blur, blocks or lost contrast, one for each."""
    noisy = (x + 0.35 * torch.randn(x.shape, generator=rng, device=x.device)).clamp(0, 1)
    smeared = F.interpolate(F.avg_pool2d(x, 8), size=x.shape[2:], mode="bilinear", align_corners=False)
    versions = torch.stack([noisy, smeared, F.interpolate(F.avg_pool2d(x, 8), scale_factor=8), wash(x, rng)])
    pick = torch.randint(0, len(versions), (x.shape[0],), generator=rng, device=x.device)
    return versions[pick, torch.arange(x.shape[0], device=x.device)]
