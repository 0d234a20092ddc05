"""Algebra of a diffusion model's levels and predictions, as pure functions of arrays.

Notation of Song et al. 2021 (DDIM): ᾱ_t is the cumulative product of the scheduler's alphas, a = √ᾱ_t the
signal and s = √(1 − ᾱ_t) the noise amplitude, so x_t = a·x0 + s·ε. `a` and `s` are arrays that broadcast
against x, or floats. A network predicts ε (Ho et al. 2020), v = a·ε − s·x0 (Salimans and Ho 2022, appendix
D) or x0; which one is its scheduler's `prediction_type`. With a = cos φ and s = sin φ, x and v are two
orthogonal directions of one plane, and every conversion below is a rotation by φ.
"""

from __future__ import annotations

from typing import Any, TypeAlias

PREDICTIONS = ("epsilon", "v_prediction", "sample")
# Plain arithmetic, for the arrays of PyTorch, NumPy and Jittor, which share no type.
Array: TypeAlias = Any
Amplitude: TypeAlias = Any  # an array that broadcasts, or a float


def amplitudes(alphas_cumprod: Array, t: Array) -> tuple[Array, Array]:
    """(√ᾱ_t, √(1 − ᾱ_t)) of the time steps t, shaped like t.

    alphas_cumprod: (T,) float64. In float32, 1 − ᾱ_0 ≈ 8.5e-4 would already have lost four digits, so cast
    afterwards.
    """
    abar = alphas_cumprod[t]
    return abar**0.5, (1 - abar) ** 0.5


def add_noise(x0: Array, eps: Array, a: Amplitude, s: Amplitude) -> Array:
    """x_t = a·x0 + s·ε (Ho et al. 2020, eq. 4)."""
    return a * x0 + s * eps


def velocity(x0: Array, eps: Array, a: Amplitude, s: Amplitude) -> Array:
    """v_t = a·ε − s·x0 (Salimans and Ho 2022, appendix D)."""
    return a * eps - s * x0


def target(kind: str, x0: Array, eps: Array, a: Amplitude, s: Amplitude) -> Array:
    """What a network of this prediction type should answer at x_t = a·x0 + s·ε."""
    if kind == "epsilon":
        return eps
    if kind == "v_prediction":
        return velocity(x0, eps, a, s)
    if kind == "sample":
        return x0
    raise _unknown(kind)


def min_snr_weight(kind: str, a: Array, s: Array, gamma: float) -> Array:
    """Min-SNR-γ weight of a sample's squared error (Hang et al. 2023, section 3.4), shaped like a and s.

    With SNR = a² / s² the weight is min(SNR, γ) on x0's error, hence min(SNR, γ) / SNR on ε's and
    min(SNR, γ) / (SNR + 1) on v's. Written without division by the signal, so that it is finite at SNR = 0
    too. gamma: above 0; the paper's is 5.
    """
    if kind == "epsilon":
        return (gamma * s**2 / a**2).clip(max=1.0)  # a = 0 gives ∞, cut to its limit 1
    if kind == "v_prediction":
        return (gamma * s**2).clip(max=a**2)  # 1 / (SNR + 1) = s², as a² + s² = 1
    if kind == "sample":
        return (a**2 / s**2).clip(max=gamma)
    raise _unknown(kind)


def to_x0(kind: str, x: Array, prediction: Array, a: Amplitude, s: Amplitude) -> Array:
    """The clean latent that a prediction at x implies; a and s are those of the level at which x lives."""
    if kind == "epsilon":
        return (x - s * prediction) / a
    if kind == "v_prediction":
        return a * x - s * prediction
    if kind == "sample":
        return prediction
    raise _unknown(kind)


def to_eps(kind: str, x: Array, prediction: Array, a: Amplitude, s: Amplitude) -> Array:
    """The noise that a prediction at x implies; a and s are those of the level at which x lives."""
    if kind == "epsilon":
        return prediction
    if kind == "v_prediction":
        return a * prediction + s * x
    if kind == "sample":
        return (x - a * prediction) / s
    raise _unknown(kind)


def ddim_move(
    kind: str,
    x: Array,
    prediction: Array,
    here: tuple[Amplitude, Amplitude],
    there: tuple[Amplitude, Amplitude],
) -> Array:
    """DDIM without noise from one level to another, Song et al. 2021, eqs. 12 (cleaner) and 14 (noisier:
    inversion).

    here, there: (a, s) of the two levels. Both x0 and ε are taken at the level of x (`here`) and put
    together at `there`. Taking them at `there` with a v-prediction mixes −x0 into ε and raises the contrast
    of every picture.
    """
    x0 = to_x0(kind, x, prediction, *here)
    eps = to_eps(kind, x, prediction, *here)
    return add_noise(x0, eps, *there)


def _unknown(kind: str) -> ValueError:
    return ValueError(f"prediction_type = {kind!r}: expected one of {', '.join(PREDICTIONS)}")
