"""StyleID's mathematics against diffusers' schedulers, closed forms and the formulas written out."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from jdx.methods.diffusion import velocity
from jdx.methods.styleid import adain, ddim_levels, denoise, inject, injected, invert
from tests.tiny_sd import SCHEDULER

KINDS = ("epsilon", "v_prediction")


def alphas() -> Tensor:
    return torch.as_tensor(DDIMScheduler.from_config(SCHEDULER).alphas_cumprod).double()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 3, 20, 50, 999])
@pytest.mark.parametrize("offset", [0, 1])
def test_levels_are_those_of_diffusers(steps: int, offset: int) -> None:
    theirs = DDIMScheduler.from_config(SCHEDULER | {"steps_offset": offset})
    theirs.set_timesteps(steps)
    ours = ddim_levels(alphas(), steps, steps_offset=offset)
    assert list(ours.timesteps) == theirs.timesteps.tolist()[::-1]
    ends = torch.cat([theirs.final_alpha_cumprod[None], theirs.alphas_cumprod[list(ours.timesteps)]]).double()
    torch.testing.assert_close(torch.tensor(ours.amplitudes).double()[:, 0] ** 2, ends, rtol=1e-6, atol=0)
    assert all(a * a + s * s == pytest.approx(1, abs=1e-12) for a, s in ours.amplitudes)


def test_the_clean_end_may_be_noiseless() -> None:
    assert ddim_levels(alphas(), 5, set_alpha_to_one=True).amplitudes[0] == (1.0, 0.0)


@pytest.mark.parametrize("steps", [0, -1, 1000, 1001])
def test_steps_beyond_the_levels_of_training_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps = {steps}: expected 1 to 999"):
        ddim_levels(alphas(), steps)


def some_network(x: Tensor, t: int) -> Tensor:
    """Smooth, nonlinear, different at every time step and place."""
    return torch.sin(x * (1 + t / 500)) + 0.3 * x.roll(1, -1)


@pytest.mark.parametrize("kind", KINDS)
def test_both_directions_equal_diffusers(kind: str) -> None:
    x = randn(2, 4, 5, 5)
    levels = ddim_levels(alphas(), 20)
    config = SCHEDULER | {"prediction_type": kind}
    up, down = DDIMInverseScheduler.from_config(config), DDIMScheduler.from_config(config)
    # They keep single-precision levels, which here would hide a wrong level behind 1e-6.
    up.alphas_cumprod = down.alphas_cumprod = alphas()
    up.initial_alpha_cumprod = down.final_alpha_cumprod = alphas()[0]
    for scheduler, ours in ((up, invert), (down, denoise)):
        scheduler.set_timesteps(20)
        theirs = x
        for t in scheduler.timesteps.tolist():
            theirs = scheduler.step(some_network(theirs, t), t, theirs).prev_sample
        torch.testing.assert_close(ours(x, levels, kind, some_network), theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 20, 50])
def test_a_perfect_network_leads_to_the_exact_end(kind: str, steps: int) -> None:
    x0, eps = randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)
    levels = ddim_levels(alphas(), steps)
    (a_0, s_0), (a_T, s_T) = levels.amplitudes[0], levels.amplitudes[-1]
    where = dict(zip(levels.timesteps, levels.amplitudes[1:], strict=True))

    def oracle(x: Tensor, t: int) -> Tensor:
        a, s = where[t]
        torch.testing.assert_close(x, a * x0 + s * eps)  # asked on the trajectory, at the level it is told
        return eps if kind == "epsilon" else velocity(x0, eps, a, s)

    drawn = denoise(a_T * x0 + s_T * eps, levels, kind, oracle)
    torch.testing.assert_close(drawn, a_0 * x0 + s_0 * eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [7, 50])
def test_inversion_with_v_is_exact_where_x_lives(steps: int) -> None:
    """A v for the level where x lives, whatever step the network is told: a rotation by each step's angle."""
    x0, eps = randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)
    levels = ddim_levels(alphas(), steps)
    lives = dict(zip(levels.timesteps, levels.amplitudes, strict=False))
    (a_0, s_0), (a_T, s_T) = levels.amplitudes[0], levels.amplitudes[-1]
    z = invert(a_0 * x0 + s_0 * eps, levels, "v_prediction", lambda x, t: velocity(x0, eps, *lives[t]))
    torch.testing.assert_close(z, a_T * x0 + s_T * eps, rtol=0, atol=1e-12)


def test_a_constant_noise_direction_comes_back_exactly() -> None:
    x, eps, levels = randn(2, 4, 6, 6), randn(2, 4, 6, 6, seed=1), ddim_levels(alphas(), 25)

    def network(x: Tensor, t: int) -> Tensor:
        return eps

    back = denoise(invert(x, levels, "epsilon", network), levels, "epsilon", network)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_of_a_gaussian_world_converges(kind: str) -> None:
    """For x0 ~ N(μ, σ²) the best network is known, and the round trip is wrong by O(1/N) only.

    E[ε|x] = s (x − aμ) / (a²σ² + s²), E[x0|x] = μ + aσ² (x − aμ) / (a²σ² + s²), and v = a ε − s x0.
    """
    mu, var, x = 0.4, 0.7**2, randn(1, 4, 16, 16)
    abar = alphas()

    def network(x: Tensor, t: int) -> Tensor:
        a, s = math.sqrt(abar[t]), math.sqrt(1 - abar[t])
        share = (x - a * mu) / (a * a * var + s * s)
        return s * share if kind == "epsilon" else velocity(mu + a * var * share, s * share, a, s)

    errors = []
    for steps in (50, 100, 200, 400):
        levels = ddim_levels(abar, steps)
        back = denoise(invert(x, levels, kind, network), levels, kind, network)
        errors.append(float((back - x).norm() / x.norm()))
    assert errors[0] < 0.1
    for worse, better in pairwise(errors):
        assert better < 0.65 * worse


def test_the_first_drawing_steps_are_without_injection() -> None:
    levels = ddim_levels(alphas(), 4)
    assert levels.timesteps == (1, 251, 501, 751)
    assert injected(levels, 0) == (1, 251, 501, 751)
    assert injected(levels, 1) == (1, 251, 501)
    assert injected(levels, 4) == ()


def test_adain_gives_exactly_the_styles_moments() -> None:
    content = 3 * randn(3, 4, 16, 16) + 5
    style = randn(3, 4, 16, 16, seed=1) * torch.tensor([0.1, 1, 2, 7]).view(1, 4, 1, 1) - 2
    made = adain(content, style)
    for b in range(3):
        for c in range(4):
            got, want = made[b, c].flatten(), style[b, c].flatten()
            assert float(got.mean()) == pytest.approx(float(want.mean()), abs=1e-12)
            assert float(got.var(unbiased=True)) == pytest.approx(float(want.var(unbiased=True)), rel=1e-12)
    # A positive affine map of each channel, so the pattern stays the content's.
    pattern = torch.stack([made.flatten(2), content.flatten(2)], -2).flatten(0, 1)
    assert all(float(torch.corrcoef(pair)[0, 1]) == pytest.approx(1, abs=1e-12) for pair in pattern)


def test_adain_of_a_picture_with_itself_is_that_picture() -> None:
    z = randn(2, 4, 9, 9)
    torch.testing.assert_close(adain(z, z), z, rtol=0, atol=1e-14)


def test_adain_serves_one_style_to_many_and_stays_finite() -> None:
    z, style = randn(3, 4, 5, 5), randn(1, 4, 5, 5, seed=1)
    torch.testing.assert_close(adain(z, style)[1:2], adain(z[1:2], style))
    assert adain(torch.zeros(1, 4, 5, 5), style.float()).isfinite().all()


def test_injection_is_the_papers_formula() -> None:
    q_c, q = randn(2, 3, 6, 8), randn(2, 3, 6, 8, seed=1)
    k, v = randn(2, 3, 10, 8, seed=2), randn(2, 3, 10, 8, seed=3)
    for gamma, tau in ((0.75, 1.5), (0.3, 1.0), (0.0, 2.0), (1.0, 0.5)):
        logits = tau * (gamma * q_c + (1 - gamma) * q) @ k.mT / math.sqrt(8)
        weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
        torch.testing.assert_close(inject(q_c, q, k, v, gamma, tau), weights @ v, rtol=1e-12, atol=1e-12)
