"""Learning to see style and object: pictures in one style attract (InfoNCE, van den Oord et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.mini.augment import replace_view, restyle
from data.mini.pictures import Pictures
from data.mini.training import Shuffle, Stage, autocast, generator

TEMPERATURE = 0.1
RESTYLED = 0.6
CONTENT_SCALE = 16.0
BALANCE = 0.1


class Vector(nn.Module):
    """A backbone's feature vector, of which one half learns the style and the other the object.

    The cosine of two whole vectors is then the mean of a style likeness and a content likeness, as long as
    both halves are of one length (`balance`).
    """

    def __init__(self, backbone: nn.Module, pool: Callable[[Any], Tensor], width: int, objects: int) -> None:
        super().__init__()
        self.backbone, self.pool = backbone, pool
        self.objects = nn.Linear(width - width // 2, objects, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures in [0, 1] → (unit style vectors, object logits, log ratio of the halves' lengths)."""
        y = self.pool(self.backbone(2 * x - 1))
        with torch.autocast(x.device.type, enabled=False):  # cosines × 16 in bfloat16 would be steps of 1/16
            return self._heads(y.float())

    def _heads(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        style, content = y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]
        ratio = style.norm(dim=-1).clamp(min=1e-6).log() - content.norm(dim=-1).clamp(min=1e-6).log()
        likeness = F.normalize(content, dim=-1) @ F.normalize(self.objects.weight, dim=-1).T
        return F.normalize(style, dim=-1), CONTENT_SCALE * likeness, ratio


def style_loss(a: Tensor, b: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE over pairs (a_i, b_i); `same[i, j]` marks j ≠ i in the same style: no repulsion.

    a, b: (B, d) unit vectors.
    """
    logits = (a @ b.T / TEMPERATURE).masked_fill(same, float("-inf"))
    target = torch.arange(len(a), device=a.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def views(data: Pictures, pick: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Two pictures for each style picked: framed apart, restyled alike; and who shares a style with whom.

    Returns: pictures (2, B, 3, H, W) in [0, 1], object labels (2, B), same-style mask (B, B), diagonal False.
    """
    x = torch.stack([data.unit(2 * pick), data.unit(2 * pick + 1)])
    device = x.device
    changed = torch.rand(len(pick), generator=rng, device=device) < RESTYLED
    state = rng.get_state()
    restyled = []
    for half in x:  # the same draws for both, so that a pair stays one style
        rng.set_state(state)
        restyled.append(restyle(half, rng))
    x = torch.where(changed[:, None, None, None], torch.stack(restyled), x)
    x = torch.stack([replace_view(half, rng) for half in x])
    style = torch.where(changed, -1 - torch.arange(len(pick), device=device), data.style[2 * pick])
    same = (style[:, None] == style[None]) & ~torch.eye(len(pick), dtype=torch.bool, device=device)
    labels = torch.stack([data.label[2 * pick], data.label[2 * pick + 1]])
    return x, labels, same


def fit_representation(model: Vector, data: Pictures, stage: Stage, seed: int) -> None:
    """Train backbone and heads until the stage's plan ends; the averaged weights are in place after."""
    device = data.pixels.device
    shuffle = Shuffle(len(data.pixels) // 2, stage.plan.batch, seed, device)
    run: Callable[..., Any] = torch.compile(model) if device.type == "cuda" else model

    def losses(step: int) -> dict[str, Tensor]:
        rng = generator(device, seed, 3, step)
        x, labels, same = views(data, shuffle(step), rng)
        with autocast(device):
            vectors, logits, ratio = run(x.flatten(0, 1))
        a, b = vectors.chunk(2)
        style, balance = style_loss(a, b, same), ratio.square().mean()
        thing = F.cross_entropy(logits, labels.flatten())
        right = (logits.argmax(-1) == labels.flatten()).float().mean()
        loss = style + thing + BALANCE * balance
        return {"loss": loss, "style": style, "object": thing, "balance": balance, "top1": right}

    stage.fit(losses)
    stage.averaged()
