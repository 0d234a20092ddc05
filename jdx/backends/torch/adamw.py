"""AdamW for K adapters at once, each with its own rate, decay, clipping and fate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from jdx.backends.torch.parts import Window


@dataclass(frozen=True)
class Knobs:
    """What may differ between the K adapters, and what may not. Per-adapter sequences have length K.

    lr, weight_decay: of each part, {part: K numbers}. max_grad_norm: of an adapter's whole gradient, inf = off.
    windows: {part: the steps in which it learns}, all of them where it is not named.
    """

    lr: Mapping[str, Sequence[float]]
    weight_decay: Mapping[str, Sequence[float]]
    max_grad_norm: Sequence[float]
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    windows: Mapping[str, Window] = field(default_factory=dict)


@dataclass
class Moments:
    """Running means of the gradient and of its square, each (K, P)."""

    m: Tensor
    v: Tensor


@dataclass
class StackedAdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2, as `torch.optim.AdamW`) on one (K, P) buffer per part.

    params: {part: (K, P)}, row k being adapter k in every part. Before the update each adapter's gradient is
    clipped by its own norm over all parts that learn, as `clip_grad_norm_` would on that adapter alone. Outside
    its window a part stays exactly what it is, and its bias corrections count from the window's start.
    An adapter whose loss or gradient norm is not finite dies: it is never updated again, keeps its last
    parameters, and does not touch the others. `died_at` (K,) holds the step of death (0 = alive) and
    `loss_died` whether the loss was the cause. Nothing here waits for the device, and `update` changes its tensors
    in place and takes what differs from step to step as a tensor, so that it may be recorded once and replayed.
    change: the arithmetic of one part, `adamw_` or a compiled one.
    """

    params: dict[str, Tensor]
    knobs: Knobs
    steps: int = 0  # done so far; bias corrections depend on it
    moments: dict[str, Moments] = field(default_factory=dict)
    change: Callable[..., None] = field(default_factory=lambda: adamw_)

    def __post_init__(self) -> None:
        first = next(iter(self.params.values()))
        K, device = first.shape[0], first.device

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(list(values), dtype=first.dtype, device=device)[:, None]

        self._lr = {name: column(self.knobs.lr[name]) for name in self.params}
        self._decay = {name: column(self.knobs.weight_decay[name]) for name in self.params}
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

    def window(self, name: str) -> Window:
        """The steps in which a part learns."""
        return self.knobs.windows.get(name, Window())

    @property
    def learning(self) -> list[str]:
        """The parts that the next step changes; `step` wants the gradients of exactly these."""
        return [name for name in self.params if self.window(name).open(self.steps)]

    def step(
        self, grads: Mapping[str, Tensor], losses: Tensor, factors: Mapping[str, float] | None = None
    ) -> Tensor:
        """One update with gradients (K, P) of losses (K,), a part's learning rates times its factor (1).

        Returns `alive` after the step.
        """
        if list(grads) != self.learning:
            raise ValueError(
                f"gradients of {list(grads)} were given, {self.learning} learn at step {self.steps}"
            )
        return self.update(grads, losses, self.begin(factors).to(losses.device, non_blocking=True))

    def begin(self, factors: Mapping[str, float] | None = None) -> Tensor:
        """Count a step; returns its numbers, (parts that learn, 4) float64 on the CPU.

        Of each part: its rate's factor, the bias corrections 1 − β₁ᵗ and √(1 − β₂ᵗ), and the step's number.
        """
        (beta1, beta2), rows = self.knobs.betas, []
        for name in self.learning:
            t = self.steps + 1 - self.window(name).start
            factor = 1.0 if factors is None else factors[name]
            rows.append((factor, 1 - beta1**t, (1 - beta2**t) ** 0.5, self.steps + 1))
        self.steps += 1
        return torch.tensor(rows, dtype=torch.float64).view(-1, 4)

    @torch.no_grad()
    def update(self, grads: Mapping[str, Tensor], losses: Tensor, numbers: Tensor) -> Tensor:
        """The device's share of a step that has begun; numbers: what `begin` returned. Returns `alive`."""
        norm = self._norm(grads)
        alive = self._bury(torch.isfinite(losses), torch.isfinite(norm), numbers[0, 3])
        clip = (self._max_norm / (norm + 1e-6)).clamp(max=1.0)  # torch's 1e-6; inf (off) gives 1
        for (name, grad), (factor, one, two, _) in zip(grads.items(), numbers, strict=True):
            p, moments = self.params[name].detach(), self.moments[name]
            rate = torch.where(alive[:, None], self._lr[name] * factor, 0.0)
            scales = Scales(alive, clip, rate, self._decay[name], one, two)
            self.change(p, moments.m, moments.v, grad, scales, self.knobs.betas, self.knobs.eps)
        return alive

    def _norm(self, grads: Mapping[str, Tensor]) -> Tensor:
        norms = [torch.linalg.vector_norm(g, dim=1) for g in grads.values()]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return norm

    def _bury(self, loss_ok: Tensor, norm_ok: Tensor, step: Tensor) -> Tensor:
        dies = self.alive & ~(loss_ok & norm_ok)
        self.died_at.copy_(torch.where(dies, step.to(self.died_at.dtype), self.died_at))
        self.loss_died |= dies & ~loss_ok
        return self.alive


class Scales(NamedTuple):
    """What an update multiplies with. K rows: alive (K,), clip (K,), rate (K, 1), decay (K, 1); numbers: one, two."""

    alive: Tensor
    clip: Tensor
    rate: Tensor  # 0 for dead rows
    decay: Tensor
    one: Tensor  # 1 − β₁ᵗ
    two: Tensor  # √(1 − β₂ᵗ)


def adamw_(
    p: Tensor, m: Tensor, v: Tensor, grad: Tensor, scales: Scales, betas: tuple[float, float], eps: float
) -> None:
    """The update of parameters and moments (K, P) in place."""
    (beta1, beta2), lr = betas, scales.rate
    # Dead rows get zeros here and have a rate of zero; NaN times zero would spread it.
    g = torch.where(scales.alive[:, None], grad * scales.clip[:, None], 0.0)
    p.mul_(1 - lr * scales.decay)
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    root = v.sqrt().div_(scales.two).add_(eps)
    p.sub_((m / root).mul_(lr / scales.one))
