"""The algebra of levels against rotations (Salimans and Ho 2022) and against diffusers' schedulers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr

from jdx.methods import diffusion
from tests.tiny_sd import SCHEDULER

KINDS = diffusion.PREDICTIONS
Pair = tuple[torch.Tensor, torch.Tensor]


def level(alphas: torch.Tensor, t: int) -> tuple[float, float]:
    a, s = diffusion.amplitudes(alphas, torch.tensor(t))
    return float(a), float(s)


@pytest.fixture(scope="module")
def alphas() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


@pytest.fixture(scope="module")
def x0_eps() -> Pair:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 8, 8, generator=generator, dtype=torch.float64)
    return x0, eps


def test_levels_of_stable_diffusion_2_1(alphas: torch.Tensor) -> None:
    # ᾱ of the published scheduler config: never zero signal-to-noise, ≈ 7 % signal at the last step.
    a, s = diffusion.amplitudes(alphas, torch.tensor([0, 1, 981, 999]))
    assert (a**2).tolist() == pytest.approx([0.99915, 0.998296, 0.0057755, 0.0046601], rel=1e-4)
    assert a[3].item() == pytest.approx(0.068265, rel=1e-4)
    assert (a**2 + s**2 - 1).abs().max() < 1e-15


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_give_back_clean_latent_and_noise(kind: str, alphas: torch.Tensor, x0_eps: Pair) -> None:
    x0, eps = x0_eps
    a, s = (v[:, None, None, None] for v in diffusion.amplitudes(alphas, torch.tensor([3, 500, 998])))
    x = diffusion.add_noise(x0, eps, a, s)
    prediction = diffusion.target(kind, x0, eps, a, s)
    assert (diffusion.to_x0(kind, x, prediction, a, s) - x0).abs().max() < 1e-11
    assert (diffusion.to_eps(kind, x, prediction, a, s) - eps).abs().max() < 1e-11


@pytest.mark.parametrize("delta", [0.3, -0.3])
def test_v_steps_are_rotations(delta: float, x0_eps: Pair) -> None:
    # With a = cos φ, s = sin φ: to φ + δ the latent turns by δ in the plane of x and v.
    x0, eps = x0_eps
    phi = 0.8
    here = math.cos(phi), math.sin(phi)
    there = math.cos(phi + delta), math.sin(phi + delta)
    x, v = diffusion.add_noise(x0, eps, *here), diffusion.velocity(x0, eps, *here)
    moved = diffusion.ddim_move("v_prediction", x, v, here, there)
    assert (moved - (math.cos(delta) * x + math.sin(delta) * v)).abs().max() < 1e-14


@pytest.mark.parametrize("steps", [20, 25, 40, 50])
def test_a_perfect_network_is_inverted_and_redrawn_exactly(
    steps: int, alphas: torch.Tensor, x0_eps: Pair
) -> None:
    x0, eps = x0_eps
    times = [0, *range(1, 1000, 1000 // steps)]
    levels = [level(alphas, t) for t in times]
    x = start = diffusion.add_noise(x0, eps, *levels[0])
    for here, there in pairwise([*levels, *levels[::-1]]):
        x = diffusion.ddim_move("v_prediction", x, diffusion.velocity(x0, eps, *here), here, there)
        assert (x - diffusion.add_noise(x0, eps, *there)).abs().max() < 1e-13
    assert (x - start).abs().max() < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_moves_equal_diffusers(kind: str, alphas: torch.Tensor, x0_eps: Pair) -> None:
    x, prediction = x0_eps
    config = {**SCHEDULER, "prediction_type": kind}
    forward, inverse = (s.from_config(config) for s in (DDIMScheduler, DDIMInverseScheduler))
    forward.set_timesteps(50)
    inverse.set_timesteps(50)
    here, there = level(alphas, 481), level(alphas, 461)
    cleaner = forward.step(prediction, 481, x).prev_sample
    assert (diffusion.ddim_move(kind, x, prediction, here, there) - cleaner).abs().max() < 1e-5
    # Its inverse scheduler names the step by the noisier level.
    noisier = inverse.step(prediction, 481, x).prev_sample
    assert (diffusion.ddim_move(kind, x, prediction, there, here) - noisier).abs().max() < 1e-5


def test_noise_and_velocity_equal_diffusers(alphas: torch.Tensor, x0_eps: Pair) -> None:
    x0, eps = x0_eps
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    t = torch.tensor([0, 417, 999])
    a, s = (v[:, None, None, None] for v in diffusion.amplitudes(alphas, t))
    assert (diffusion.add_noise(x0, eps, a, s) - scheduler.add_noise(x0, eps, t)).abs().max() < 1e-4
    assert (diffusion.velocity(x0, eps, a, s) - scheduler.get_velocity(x0, eps, t)).abs().max() < 1e-4


@pytest.mark.parametrize("gamma", [5.0, 0.3])
def test_min_snr_weights_are_the_papers_on_diffusers_snr(gamma: float, alphas: torch.Tensor) -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    t = torch.arange(1000)
    snr = compute_snr(scheduler, t).double()  # theirs, in float32
    a, s = diffusion.amplitudes(alphas, t)
    least = snr.clamp(max=gamma)
    for kind, want in (("epsilon", least / snr), ("v_prediction", least / (snr + 1)), ("sample", least)):
        weights = diffusion.min_snr_weight(kind, a, s, gamma)
        assert weights.tolist() == pytest.approx(want.tolist(), rel=1e-4), kind


def test_min_snr_weights_are_one_loss_in_three_clothes(alphas: torch.Tensor, x0_eps: Pair) -> None:
    """The weighted error of a wrong x0 is the same whatever the network predicts (Hang et al., section 3.4)."""
    x0, eps = x0_eps
    a, s = (part[:, None, None, None] for part in diffusion.amplitudes(alphas, torch.tensor([5, 300, 999])))
    x, errors = diffusion.add_noise(x0, eps, a, s), []
    wrong = x0 + 0.1 * eps
    for kind in KINDS:
        goal, guess = (diffusion.target(kind, z, (x - a * z) / s, a, s) for z in (x0, wrong))
        errors.append(diffusion.min_snr_weight(kind, a, s, 5.0) * (guess - goal) ** 2)
    assert all(torch.allclose(error, errors[0], rtol=1e-9, atol=0) for error in errors)


def test_min_snr_weights_are_finite_without_any_signal() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    got = [diffusion.min_snr_weight(kind, zero, one, 5.0).item() for kind in KINDS]
    assert got == [1.0, 0.0, 0.0]


def test_an_unknown_prediction_type_is_named_with_the_valid_ones(x0_eps: Pair) -> None:
    with pytest.raises(ValueError, match=r"'flow'.*epsilon, v_prediction, sample"):
        diffusion.target("flow", *x0_eps, 0.6, 0.8)
    with pytest.raises(ValueError, match="flow"):
        diffusion.min_snr_weight("flow", torch.ones(1), torch.ones(1), 5.0)
