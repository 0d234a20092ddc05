"""Running averages of K adapters' parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jdx.backends.torch.parts import Window
from jdx.methods.schedule import ema_decay


@dataclass
class StackedEma:
    """Exponential moving averages of (K, P) buffers, equal to diffusers' `EMAModel` on each adapter alone.

    params: {part: (K, P)}; limits: K decays that the warm-up grows to, None = no average of this adapter (its
    rows of `rows` follow the parameters). windows: a part's average counts its steps from the window's start;
    after the window's end it settles on the parameters, which do not change any more.
    """

    params: Mapping[str, Tensor]
    limits: Sequence[float | None]
    windows: Mapping[str, Window] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, p in self.params.items():
            self.rows.setdefault(name, p.detach().clone())

    def update(self, done: int) -> None:
        """Take in the parameters after `done` steps."""
        first = next(iter(self.rows.values()))
        self.take(self.shares(done).to(first.device, non_blocking=True))

    def shares(self, done: int) -> Tensor:
        """How much of the parameters the averages take in after `done` steps, (parts, K) float64 on the CPU."""
        rows = []
        for name in self.params:
            t = done - self.windows.get(name, Window()).start
            rows.append([0.0 if t <= 0 else 1.0 if k is None else 1.0 - ema_decay(k, t) for k in self.limits])
        return torch.tensor(rows, dtype=torch.float64)

    @torch.no_grad()
    def take(self, shares: Tensor) -> None:
        """Move the averages in place; shares on the parameters' device."""
        for (name, p), share in zip(self.params.items(), shares, strict=True):
            self.rows[name].lerp_(p, share[:, None].to(p.dtype))
