"""Learning-rate factors against diffusers' schedulers."""

from __future__ import annotations

from typing import Literal, get_args

import pytest
import torch
from diffusers.optimization import get_scheduler

from jdx.backends.base import ScheduleSpec
from jdx.methods.schedule import lr_factor

Name = Literal["constant", "cosine", "linear"]


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("name", get_args(Name))
def test_factors_equal_diffusers(name: Name, warmup: int) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs_name = "constant_with_warmup" if name == "constant" else name
    theirs = get_scheduler(theirs_name, optimiser, num_warmup_steps=warmup, num_training_steps=30)
    for step in range(31):
        assert lr_factor(ScheduleSpec(name, warmup), 30, step) == pytest.approx(
            theirs.get_last_lr()[0], abs=1e-15
        )
        optimiser.step()
        theirs.step()


def test_a_decayed_rate_stays_at_zero() -> None:
    assert lr_factor(ScheduleSpec("cosine"), 10, 15) == lr_factor(ScheduleSpec("linear"), 10, 15) == 0.0
