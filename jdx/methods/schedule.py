"""Learning-rate factors over the steps, as pure functions of the step."""

from __future__ import annotations

import math

from jdx.backends.base import ScheduleSpec


def lr_factor(schedule: ScheduleSpec, horizon: int, step: int) -> float:
    """The factor of the learning rate at `step` (0 = the first), equal to diffusers' `get_scheduler`.

    horizon: the step at which cosine (Loshchilov and Hutter 2017, half a period) and linear reach 0; a
    constant schedule ignores it. As in diffusers, a warm-up of w steps starts at 0 and reaches 1 at step w.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return step / warmup
    if schedule.name == "constant":
        return 1.0
    progress = (step - warmup) / max(1, horizon - warmup)
    if schedule.name == "linear":
        return max(0.0, 1.0 - progress)
    # Past the horizon diffusers' half cosine would rise again; "to zero" means that it stays there.
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
