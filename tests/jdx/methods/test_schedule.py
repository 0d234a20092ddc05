"""Learning-rate factors against diffusers' schedulers."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from jdx.backends.base import ScheduleName, ScheduleSpec
from jdx.methods.schedule import PREFIX_SAFE, ema_decay, lr_factor

NAMES = get_args(ScheduleName)


@pytest.fixture
def optimiser() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


@pytest.mark.parametrize("cycles", [1, 3])
@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "step"])
def test_factors_equal_diffusers(
    name: ScheduleName, warmup: int, cycles: int, optimiser: torch.optim.Optimizer
) -> None:
    theirs_name = "constant_with_warmup" if name == "constant" else name
    theirs = get_scheduler(
        theirs_name,
        optimiser,
        num_warmup_steps=warmup,
        num_training_steps=30,
        num_cycles=cycles if name == "cosine_with_restarts" else 1,
    )
    ours = ScheduleSpec(name, warmup, cycles=cycles)
    for step in range(35 if name == "cosine_with_restarts" else 31):
        assert lr_factor(ours, 30, step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-15)
        optimiser.step()
        theirs.step()


@pytest.mark.parametrize(("size", "factor"), [(30, 0.7), (7, 0.5)])  # StyleBlend's is the first
def test_steps_down_equal_torch(size: int, factor: float, optimiser: torch.optim.Optimizer) -> None:
    theirs = torch.optim.lr_scheduler.StepLR(optimiser, size, factor)
    ours, warm = (ScheduleSpec("step", w, step_size=size, step_factor=factor) for w in (0, 4))
    for step in range(70):
        rate = theirs.get_last_lr()[0]
        assert lr_factor(ours, 0, step) == pytest.approx(rate, rel=1e-12)
        assert lr_factor(warm, 0, step + 4) == pytest.approx(rate, rel=1e-12)
        optimiser.step()
        theirs.step()
    assert lr_factor(warm, 0, 3) == 0.75
    with pytest.raises(ValueError, match="needs its step_size"):
        lr_factor(ScheduleSpec("step"), 0, 0)


def test_which_schedules_are_prefixes_of_longer_ones() -> None:
    """By trying: the first 20 rates of a run of 30 steps and of one of 40."""
    safe = set()
    for name in NAMES:
        spec = ScheduleSpec(name, 3, cycles=2, step_size=6, step_factor=0.5)
        if all(lr_factor(spec, 30, step) == lr_factor(spec, 40, step) for step in range(20)):
            safe.add(name)
    assert safe == PREFIX_SAFE


def test_a_decayed_rate_stays_at_zero() -> None:
    assert lr_factor(ScheduleSpec("cosine"), 10, 15) == lr_factor(ScheduleSpec("linear"), 10, 15) == 0.0


@pytest.mark.parametrize("limit", [0.5, 0.99, 0.9999])
def test_decays_of_averages_equal_diffusers(limit: float) -> None:
    theirs = EMAModel([torch.nn.Parameter(torch.zeros(1))], decay=limit)
    for t in range(1, 2000):
        assert ema_decay(limit, t) == pytest.approx(theirs.get_decay(t), abs=1e-15)
