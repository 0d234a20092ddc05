"""AdamW for K adapters at once, each with its own rate, decay, clipping and fate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Knobs:
    """What may differ between the K adapters, and what may not. Per-adapter sequences have length K.

    lr: learning rates of each network, {network: K rates}. max_grad_norm: of an adapter's whole gradient,
    inf = off.
    """

    lr: dict[str, Sequence[float]]
    weight_decay: Sequence[float]
    max_grad_norm: Sequence[float]
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass
class Moments:
    """Running means of the gradient and of its square, each (K, P)."""

    m: Tensor
    v: Tensor


@dataclass
class StackedAdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2, as `torch.optim.AdamW`) on one (K, P) buffer per
    network.

    params: {network: (K, P)}, row k being adapter k in every network. Before the update each adapter's
    gradient is clipped by its own norm over all networks, as `clip_grad_norm_` would on that adapter alone.
    An adapter whose loss
    or gradient norm is not finite dies: it is never updated again, keeps its last parameters, and does not
    touch the others. `died_at` (K,) holds the step of death (0 = alive) and `loss_died` whether the loss
    was the cause. Nothing here waits for the device.
    """

    params: dict[str, Tensor]
    knobs: Knobs
    steps: int = 0  # done so far; bias corrections depend on it
    moments: dict[str, Moments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first = next(iter(self.params.values()))
        K, device = first.shape[0], first.device

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(list(values), dtype=first.dtype, device=device)[:, None]

        self._lr = {name: column(self.knobs.lr[name]) for name in self.params}
        self._decay = column(self.knobs.weight_decay)
        self._max_norm = column(self.knobs.max_grad_norm)[:, 0]
        self.died_at = torch.zeros(K, dtype=torch.int64, device=device)
        self.loss_died = torch.zeros(K, dtype=torch.bool, device=device)
        for name, p in self.params.items():
            p = p.detach()
            self.moments.setdefault(name, Moments(torch.zeros_like(p), torch.zeros_like(p)))

    @property
    def alive(self) -> Tensor:
        """Boolean (K,): which adapters are still trained."""
        return self.died_at == 0

    @torch.no_grad()
    def step(self, grads: dict[str, Tensor], losses: Tensor, factor: float = 1.0) -> Tensor:
        """One update with gradients (K, P) of losses (K,), learning rates multiplied by `factor`.

        Returns `alive` after the step.
        """
        self.steps += 1
        norm = self._norm(grads)
        alive = self._bury(torch.isfinite(losses), torch.isfinite(norm))
        clip = (self._max_norm / (norm + 1e-6)).clamp(max=1.0)  # torch's 1e-6; inf (off) gives 1
        for name, p in self.params.items():
            # Dead rows get zeros here and a rate of zero below; NaN times zero would spread it.
            g = torch.where(alive[:, None], grads[name] * clip[:, None], 0.0)
            self._update(p, g, self.moments[name], torch.where(alive[:, None], self._lr[name] * factor, 0.0))
        return alive

    def _norm(self, grads: dict[str, Tensor]) -> Tensor:
        norms = [torch.linalg.vector_norm(g, dim=1) for g in grads.values()]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return norm

    def _bury(self, loss_ok: Tensor, norm_ok: Tensor) -> Tensor:
        dies = self.alive & ~(loss_ok & norm_ok)
        self.died_at = torch.where(dies, self.steps, self.died_at)
        self.loss_died |= dies & ~loss_ok
        return self.alive

    def _update(self, p: Tensor, g: Tensor, moments: Moments, lr: Tensor) -> None:
        (beta1, beta2), m, v = self.knobs.betas, moments.m, moments.v
        p.mul_(1 - lr * self._decay)
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        root = v.sqrt().div_((1 - beta2**self.steps) ** 0.5).add_(self.knobs.eps)
        p.sub_((m / root).mul_(lr / (1 - beta1**self.steps)))
