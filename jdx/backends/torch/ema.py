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

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Take in the parameters after `done` steps."""
        for name, p in self.params.items():
            t = done - self.windows.get(name, Window()).start
            if t > 0:
                shares = [1.0 if limit is None else 1.0 - ema_decay(limit, t) for limit in self.limits]
                self.rows[name].lerp_(p, p.new_tensor(shares)[:, None])
