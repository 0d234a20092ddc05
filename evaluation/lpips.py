"""LPIPS (Zhang et al. 2018, eq. 1) of a picture against a whole set of references at once.

The distance is quadratic in the normalised features: d(x, r) = Σ_l mean_hw Σ_c w_lc (x − r)². So its mean
over references needs only their mean features m and mean energy e: Σ_l mean_hw Σ_c w_lc (x² − 2 x m) + e_l.
One product per picture replaces one network pass (or one difference) per pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Under the root as in torchmetrics >= 1.0; the lpips package adds 1e-10 outside. Beyond rounding both agree.
_EPS = 1e-8


@dataclass
class LpipsTarget:
    """Mean features (C, h, w) and mean energy () of a set of references, one per stage."""

    features: list[Tensor]
    energy: list[Tensor]


class TargetBuilder:
    """Sums reference features batch by batch, so that one batch is in memory at a time."""

    def __init__(self, heads: Sequence[Tensor]) -> None:
        self.heads = heads
        self.count = 0
        self._sums: list[Tensor] = []
        self._energy: list[Tensor] = []

    def add(self, stages: Sequence[Tensor]) -> None:
        """Take in the trunk's stages of some references, (N, C, h, w) each.

        Raises:
            ValueError: maps of another size than before; a trunk without `image_size` wants equal pictures.
        """
        normed = [normalise(stage) for stage in stages]
        sums = [x.double().sum(0) for x in normed]
        energy = [_weighted_energy(x, w).double().sum() for x, w in zip(normed, self.heads, strict=True)]
        if self.count and any(a.shape != b.shape for a, b in zip(self._sums, sums, strict=True)):
            raise ValueError("LPIPS compares pictures of one size; resize them or set the trunk's image_size")
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self.count else sums
        self._energy = [a + b for a, b in zip(self._energy, energy, strict=True)] if self.count else energy
        self.count += len(stages[0])

    def target(self) -> LpipsTarget:
        """What the generated pictures are compared with."""
        return LpipsTarget(
            [(x / self.count).float() for x in self._sums], [(e / self.count).float() for e in self._energy]
        )


def lpips_distances(stages: Sequence[Tensor], target: LpipsTarget, heads: Sequence[Tensor]) -> Tensor:
    """Mean LPIPS of each picture to the target's references: stages (N, C, h, w) → (N,) >= 0.

    Raises:
        ValueError: maps of another size than the target's.
    """
    total = torch.zeros(len(stages[0]), dtype=torch.float64)
    for stage, mean, energy, head in zip(stages, target.features, target.energy, heads, strict=True):
        if stage.shape[1:] != mean.shape:
            raise ValueError("LPIPS compares pictures of one size; resize them or set the trunk's image_size")
        x, mean = normalise(stage), mean.to(stage.device)
        cross = (x * mean * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
        # Identical pictures cancel to rounding, which must not become a negative distance.
        part = _weighted_energy(x, head).double() - 2 * cross.double() + energy.to(stage.device).double()
        total += part.cpu()
    return total.clamp_min(0.0)


def normalise(x: Tensor) -> Tensor:
    """Unit length over channels at every place."""
    return x / torch.sqrt(_EPS + x.square().sum(1, keepdim=True))


def uniform_heads(channels: Sequence[int]) -> list[Tensor]:
    """Weights that make the distance the mean over stages and places of 1 − cos: [0, 1] for features >= 0."""
    return [torch.full((c,), 0.5 / len(channels)) for c in channels]


def _weighted_energy(x: Tensor, head: Tensor) -> Tensor:
    """mean_hw Σ_c w_c x², per picture."""
    return (x.square() * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
