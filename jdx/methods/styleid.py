"""StyleID (Chung et al. 2024, "Style Injection in Diffusion"): the mathematics, as pure functions of tensors.

A content and a style picture are inverted by DDIM (Song et al. 2021) to z_T^c and z_T^s. Drawing starts from
z_T^c with the moments of z_T^s, and at every step some self-attentions see the content's queries and the
style's keys and values *of the same time step*.

Levels: DDIM's "leading" table t_1 < … < t_N plus the clean end, N + 1 levels in all. Inversion moves level
i − 1 to i with the network told t_i, drawing moves i to i − 1 with the network told t_i. So both directions
call the network with the same N time steps, and a feature is named by its time step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from jdx.methods.diffusion import ddim_move

if TYPE_CHECKING:  # levels, inversion and drawing are plain arithmetic, for NumPy's and Jittor's arrays too
    from torch import Tensor

X = TypeVar("X", bound=Any)
Predict = Callable[[X, int], X]
"""(x, t) -> the network's answer to x, told the time step t of the noisier end of the move."""


@dataclass(frozen=True)
class Levels:
    """The noise levels of a DDIM trajectory, clean end first.

    timesteps: t_1 < … < t_N. amplitudes: N + 1 pairs (√ᾱ, √(1 − ᾱ)); the first is the clean end, pair i
    belongs to t_i.
    """

    timesteps: tuple[int, ...]
    amplitudes: tuple[tuple[float, float], ...]


def ddim_levels(
    alphas_cumprod: Sequence[float] | Tensor,
    steps: int,
    *,
    steps_offset: int = 1,
    set_alpha_to_one: bool = False,
) -> Levels:
    """DDIM's levels with "leading" spacing, t_i = (i − 1)·⌊T/N⌋ + offset, those of diffusers' DDIMScheduler.

    alphas_cumprod: (T,). The clean end is ᾱ_0, as Stable Diffusion's scheduler files say, or 1 with
    set_alpha_to_one.
    Raises: ValueError when `steps` does not fit the T levels of training.
    """
    T = len(alphas_cumprod)
    if not 1 <= steps <= T or (steps - 1) * (T // steps) + steps_offset >= T:
        raise ValueError(
            f"steps = {steps}: expected 1 to {T - steps_offset}, the model knows {T} noise levels"
        )
    timesteps = tuple(i * (T // steps) + steps_offset for i in range(steps))
    clean = 1.0 if set_alpha_to_one else float(alphas_cumprod[0])
    levels = [clean, *(float(alphas_cumprod[t]) for t in timesteps)]
    return Levels(timesteps, tuple((math.sqrt(abar), math.sqrt(1 - abar)) for abar in levels))


def invert(x: X, levels: Levels, kind: str, predict: Predict[X]) -> X:
    """DDIM inversion (Song et al. 2021, eq. 14 backwards): the clean latent x to its z_T.

    kind: the network's prediction_type. x0 and ε are taken with the amplitudes of the level where x lives,
    and the network is told the next time step: the usual approximation, as diffusers'
    DDIMInverseScheduler has it. With an ε-network it is exact where the predicted noise is constant.
    """
    for t, here, there in zip(levels.timesteps, levels.amplitudes, levels.amplitudes[1:], strict=False):
        x = ddim_move(kind, x, predict(x, t), here, there)
    return x


def denoise(z: X, levels: Levels, kind: str, predict: Predict[X]) -> X:
    """DDIM without noise (Song et al. 2021, eq. 12, η = 0): z_T to the clean latent."""
    moves = list(zip(levels.timesteps, levels.amplitudes[1:], levels.amplitudes, strict=False))
    for t, here, there in reversed(moves):
        z = ddim_move(kind, z, predict(z, t), here, there)
    return z


def injected(levels: Levels, start_step: int) -> tuple[int, ...]:
    """The time steps with injection, ascending: all but the first `start_step` of the drawing.

    start_step is 1 in the authors' program: the very first drawing step, at t_N, is a plain one. With N there
    is no injection at all.
    """
    return levels.timesteps[: len(levels.timesteps) - start_step]


def adain(content: Tensor, style: Tensor) -> Tensor:
    """StyleID's "initial latent AdaIN" (Huang and Belongie 2017).

    z = σ(z^s)·(z^c − μ(z^c))/σ(z^c) + μ(z^s), with μ and the unbiased σ of each channel over both space axes
    together. content, style: (B, C, h, w); style broadcasts over B. A constant content channel stays finite.
    """
    import torch

    space = (-2, -1)
    mu_c, mu_s = content.mean(space, keepdim=True), style.mean(space, keepdim=True)
    sigma_c, sigma_s = content.std(space, keepdim=True), style.std(space, keepdim=True)
    # The paper's formula has no epsilon, which would shrink every contrast a little; only 0/0 needs help.
    return sigma_s * (content - mu_c) / sigma_c.clamp_min(torch.finfo(content.dtype).tiny) + mu_s


def inject(
    q_c: Tensor, q: Tensor, k_s: Tensor, v_s: Tensor, gamma: float | Tensor, temperature: float | Tensor
) -> Tensor:
    """StyleID's style injection, query preservation γ and attention temperature τ: softmax(τ·Q̃·K_sᵀ/√d)·V_s.

    Q̃ = γ·Q_c + (1 − γ)·Q. τ belongs here alone: attentions without injection keep the plain softmax.
    q_c, q: (B, heads, S, d), the queries of the content and of the picture being drawn. k_s, v_s:
    (B, heads, S', d). γ, τ: numbers or tensors (); τ as a tensor is multiplied into Q̃.
    """
    import torch
    import torch.nn.functional as F

    q_mix = gamma * q_c + (1 - gamma) * q
    if isinstance(temperature, torch.Tensor):
        q_mix, temperature = q_mix * temperature, 1.0
    return F.scaled_dot_product_attention(q_mix, k_s, v_s, scale=temperature / q.shape[-1] ** 0.5)
