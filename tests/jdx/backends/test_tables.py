"""Samplers as tables, against the schedulers of diffusers that they were read off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jdx.backends.base import SamplerSpec
from jdx.backends.torch.sampling import SAMPLERS, _by_table, start_run
from jdx.backends.torch.tables import table_of
from tests.tiny_sd import SCHEDULER


def network(step: int, x: Tensor) -> Tensor:
    """Some answer that is not linear in x and differs by step."""
    return torch.sin(3 * x + step)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("strength", [None, 0.7])
def test_a_table_draws_what_the_scheduler_draws(name: Any, kind: str, strength: float | None) -> None:
    config = SCHEDULER | {"prediction_type": kind}
    spec = SamplerSpec(name, 20, 1.0)
    first = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    run = start_run(spec, config, strength)
    theirs = first
    for step, t in enumerate(run.timesteps):
        answer = network(step, run.scheduler.scale_model_input(theirs, t))
        theirs = run.scheduler.step(answer, t, theirs).prev_sample
    run = start_run(spec, config, strength)
    table = table_of(run.scheduler, list(run.timesteps))
    assert table is not None
    assert table.steps == len(run.timesteps)
    # diffusers rounds some of its own weights to float32 on the way.
    torch.testing.assert_close(_by_table(table, first, network), theirs, rtol=1e-5, atol=1e-5)


def test_a_scheduler_that_clips_has_no_table() -> None:
    run = start_run(SamplerSpec("ddim", 4, 1.0), SCHEDULER | {"thresholding": True})
    assert table_of(run.scheduler, list(run.timesteps)) is None
