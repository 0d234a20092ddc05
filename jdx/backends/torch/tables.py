"""Samplers as tables of numbers, so that a drawing's steps need neither the host nor a synchronisation.

Every sampler that is offered moves by sums of the first latents and the network's answers so far, with weights that
depend on the time steps alone. `table_of` reads these weights off a diffusers scheduler by letting it sample unit
vectors, and `Table.at` forms the sums: one reduction a step instead of a scheduler's small operations, some of which
(a linear system in UniPC) wait for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jdx.backends.torch.devices import send


@dataclass(frozen=True)
class Table:
    """weights: (steps + 1, steps + 1), float64 on the CPU; row i is what the network sees at step i, the last
    the result.

    Columns: the first latents, then the network's (guided) answers of the steps before.
    """

    weights: Tensor

    @property
    def steps(self) -> int:
        """Number of the network's passes."""
        return len(self.weights) - 1

    def history(self, latents: Tensor) -> Tensor:
        """Room for all terms, (steps + 1, n, C, h, w), the first latents in place."""
        terms = latents.new_zeros(self.steps + 1, *latents.shape)
        terms[0] = latents
        return terms

    def on(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The weights where the terms are."""
        return send(self.weights, device, dtype)


def at(weights: Tensor, step: int, history: Tensor) -> Tensor:
    """What row `step` makes of the terms so far. Multiplied and summed: a matrix product might round to TF32."""
    row = weights[step, : step + 1].view(-1, *[1] * (history.dim() - 1))
    total: Tensor = (row * history[: step + 1]).sum(0)
    return total


def table_of(scheduler: Any, timesteps: Sequence[Tensor]) -> Table | None:
    """The weights of a diffusers scheduler that is set to its first step; None where its steps are no plain sums.

    The scheduler is used up by it.
    """
    if scheduler.config.get("thresholding") or scheduler.config.get("clip_sample"):
        return None
    steps = len(timesteps)
    units = torch.eye(steps + 1, dtype=torch.float64).view(steps + 1, steps + 1, 1, 1, 1)
    x, rows = units[0], []
    for step, t in enumerate(timesteps):
        rows.append(scheduler.scale_model_input(x, t).flatten())
        x = scheduler.step(units[step + 1], t, x).prev_sample
    return Table(torch.stack([*rows, x.flatten()]))
