"""AdamW for K adapters at once in Jittor, each with its own rate, decay, clipping and fate.

Jittor's own `jt.optim.AdamW` has one rate and one fate for all parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jittor as jt
import numpy as np
import numpy.typing as npt

from jdx.backends.jittor.worker.jobs.pictures import Floats
from jdx.backends.windows import Window

SUMMED = 1024
"""Numbers that are added up in float32 at most."""


@dataclass(frozen=True)
class Knobs:
    """What may differ between the K adapters, and what may not. Per-adapter sequences have length K.

    lr, weight_decay: of each part, {part: K numbers}. max_grad_norm: of an adapter's whole gradient, inf = off.
    windows: {part: the steps in which it learns}.
    """

    lr: Mapping[str, Sequence[float]]
    weight_decay: Mapping[str, Sequence[float]]
    max_grad_norm: Sequence[float]
    windows: Mapping[str, Window]
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass
class StackedAdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) on one (K, P) buffer per part, as the torch backend's.

    params: {part: (K, P)}, replaced at each step. Before the update each adapter's gradient is clipped by its own
    norm over all parts that learn. Outside its window a part stays exactly what it is, and its bias corrections count
    from the window's start. An adapter whose loss or gradient norm is not finite dies: it keeps its last parameters
    and does not touch the others. `died_at` (K,) holds the step of death (0 = alive), `loss_died` whether the loss
    was the cause.
    """

    params: dict[str, Any]
    knobs: Knobs
    steps: int = 0  # done so far; bias corrections depend on it
    m: dict[str, Any] = field(default_factory=dict)
    v: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        K = next(iter(self.params.values())).shape[0]
        self.died_at = np.zeros(K, np.int64)
        self.loss_died = np.zeros(K, bool)
        with jt.no_grad():
            for name, p in self.params.items():
                self.m.setdefault(name, jt.zeros_like(p))
                self.v.setdefault(name, jt.zeros_like(p))

    @property
    def alive(self) -> npt.NDArray[np.bool_]:
        """(K,): which adapters are still trained."""
        return np.asarray(self.died_at == 0)

    @property
    def learning(self) -> list[str]:
        """The parts that the next step changes; `step` wants the gradients of exactly these."""
        return [name for name in self.params if self.knobs.windows[name].open(self.steps)]

    def step(
        self, grads: Mapping[str, Any], losses: Floats, factors: Mapping[str, float]
    ) -> npt.NDArray[np.bool_]:
        """One update with gradients (K, P) of losses (K,), a part's learning rates times its factor.

        Returns `alive` after the step.
        """
        if list(grads) != self.learning:
            raise ValueError(
                f"gradients of {list(grads)} were given, {self.learning} learn at step {self.steps}"
            )
        self.steps += 1
        with jt.no_grad():
            norm = self._norm(grads)
            self._bury(np.isfinite(losses), np.isfinite(norm))
            limit = np.asarray(self.knobs.max_grad_norm, np.float32)
            with np.errstate(invalid="ignore"):  # of the dead
                clip = np.minimum(limit / (norm + np.float32(1e-6)), 1.0)  # torch's 1e-6; inf (off) gives 1
            for name, grad in grads.items():
                self._update(name, self._alive_only(grad, clip), factors[name])
        return self.alive

    def _norm(self, grads: Mapping[str, Any]) -> Floats:
        squares = [square_sums(grad) for grad in grads.values()]
        return np.asarray(np.sqrt(np.sum(squares, axis=0)), np.float32)

    def _bury(self, loss_ok: npt.NDArray[np.bool_], norm_ok: npt.NDArray[np.bool_]) -> None:
        dies = self.alive & ~(loss_ok & norm_ok)
        self.died_at[dies] = self.steps
        self.loss_died |= dies & ~loss_ok

    def _alive_only(self, grad: Any, clip: Floats) -> Any:
        """The clipped gradient, 0 in dead rows; a product with zero would leave a NaN there."""
        clipped = grad * _column(clip)
        if self.alive.all():
            return clipped
        mask = jt.array(self.alive[:, None]).broadcast(grad.shape)
        return jt.ternary(mask, clipped, jt.zeros_like(grad))

    def _update(self, name: str, g: Any, factor: float) -> None:
        (beta1, beta2), t = self.knobs.betas, self.steps - self.knobs.windows[name].start
        rates = np.where(self.alive, np.asarray(self.knobs.lr[name]) * factor, 0.0)
        kept = 1 - rates * np.asarray(self.knobs.weight_decay[name])
        m = self.m[name] + (g - self.m[name]) * (1 - beta1)
        v = self.v[name] * beta2 + g * g * (1 - beta2)
        slope = _column(rates / (1 - beta1**t))
        root = v.sqrt() / (1 - beta2**t) ** 0.5 + self.knobs.eps
        p = self.params[name] * _column(kept) - m / root * slope
        for x in (m, v, p):
            x.sync()  # now: the graph of all steps would otherwise be kept
        self.m[name], self.v[name] = m, v
        p.start_grad()
        self.params[name] = p


def square_sums(x: Any) -> Floats:
    """The sums (K,) of the squares of x (K, P).

    In two stages: Jittor adds a row up in one float32, which loses 0.06 % of a million numbers and half of 2²⁵.
    """
    K, P = x.shape
    whole = P // SUMMED * SUMMED
    parts = [x[:, :whole].reshape(K, -1, SUMMED), x[:, whole:].reshape(K, 1, -1)]
    sums = [(part * part).sum(2).numpy().astype(np.float64).sum(1) for part in parts if 0 not in part.shape]
    return np.asarray(np.sum(sums, axis=0), np.float32)


def _column(numbers: npt.NDArray[Any]) -> Any:
    return jt.array(np.ascontiguousarray(numbers, np.float32)[:, None])
