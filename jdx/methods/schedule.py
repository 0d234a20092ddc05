"""Learning-rate factors and decays of averages over the steps, as pure functions of the step."""

from __future__ import annotations

import math

from jdx.backends.base import ScheduleSpec

PREFIX_SAFE = frozenset({"constant", "step"})
"""Schedules whose rate at a step does not depend on how long the training goes on."""


def lr_factor(schedule: ScheduleSpec, horizon: int, step: int) -> float:
    """The factor of the learning rate at `step` (0 = the first), equal to diffusers' `get_scheduler`.

    horizon: the step at which cosine (Loshchilov and Hutter 2017, half a period), its restarts and linear
    reach 0; constant and step ignore it. As in diffusers, a warm-up of w steps starts at 0 and reaches 1 at
    step w. step is torch's StepLR, counted from the end of the warm-up.
    Raises: ValueError when a step schedule has no step size.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return step / warmup
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "step":
        if schedule.step_size is None:
            raise ValueError("a step schedule needs its step_size")
        return schedule.step_factor ** ((step - warmup) // schedule.step_size)
    progress = (step - warmup) / max(1, horizon - warmup)
    if schedule.name == "linear":
        return max(0.0, 1.0 - progress)
    if schedule.name == "cosine_with_restarts":
        cycle = (schedule.cycles * progress) % 1.0
        return 0.0 if progress >= 1.0 else 0.5 * (1.0 + math.cos(math.pi * cycle))
    # Past the horizon diffusers' half cosine would rise again; "to zero" means that it stays there.
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def ema_decay(limit: float, t: int) -> float:
    """Decay of a parameter average at its t-th update (1 = the first), equal to diffusers' `EMAModel`.

    min(limit, t / (t + 9)), and 0 at the first update: the average starts as the parameters themselves, and a
    short run averages over its last tenth or so whatever the limit is.
    """
    return 0.0 if t <= 1 else min(limit, t / (t + 9))
