"""Training: going on from a snapshot equals going straight through, running averages included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel

from jdx.backends.base import LoraSpec, ScheduleSpec
from jdx.backends.torch.models import Models
from jdx.errors import ConfigError
from tests.jdx.backends.train_jobs import (
    ATTENTION,
    THREE,
    Moments,
    Result,
    make_job,
    run,
    same,
    with_prior,
    with_text,
)

pytestmark = pytest.mark.usefixtures("networks_are_put_back")


@pytest.mark.parametrize("log_every", [2, 3])
def test_resume_equals_straight_through_bit_for_bit(
    log_every: int, models: Models, moments: Moments, tmp_path: Path
) -> None:
    adapters = [with_text(with_prior(adapter)) for adapter in THREE[:2]]
    settings = {"log_every": log_every, "schedule": ScheduleSpec("linear", 1), "schedule_steps": 9}
    whole = run(make_job(moments, models, *adapters, **settings, snapshots=(5,)), models, tmp_path / "whole")
    first = run(make_job(moments, models, *adapters, **settings, snapshots=(2,)), models, tmp_path / "first")
    resume = {style: folder for (style, _), folder in first.folders.items()}
    job = make_job(moments, models, *adapters, **settings, snapshots=(5,), resume=resume, start_step=2)
    second = run(job, models, tmp_path / "second")
    for adapter in adapters:
        straight, resumed = (r.folders[adapter.style, 5] for r in (whole, second))
        for file in ("pytorch_lora_weights.safetensors", "state.safetensors", "losses.csv"):
            assert (straight / file).read_bytes() == (resumed / file).read_bytes(), file


def test_averages_are_diffusers_and_only_the_drawn_weights_are_averaged(
    together: Result, models: Models, moments: Moments, tmp_path: Path
) -> None:
    """Adapters with and without an average in one stack; the raw parameters are those of a run without any."""
    mixed = [replace(THREE[0], ema_decay=0.25), THREE[1], replace(THREE[2], ema_decay=0.999)]
    steps = (1, 2, 3, 4)
    result = run(make_job(moments, models, *mixed, batch_size=2, snapshots=steps), models, tmp_path)
    for adapter in (mixed[0], mixed[2]):
        theirs = EMAModel([torch.nn.Parameter(torch.zeros(()))], decay=adapter.ema_decay)
        for step in steps:
            state = result.tensors(adapter.style, step)
            now = torch.nn.Parameter(state["unet.param"])
            if step == 1:
                theirs.shadow_params = [now.detach().clone()]
            theirs.step([now])
            assert (state["unet.ema"] - theirs.shadow_params[0]).abs().max() < 1e-15
        assert (state["unet.ema"] - state["unet.param"]).abs().max() > 1e-5
        weights = result.weights(adapter.style)
        paths = [path for path, _ in models.unet.named_modules() if f"unet.{path}.lora_A.weight" in weights]
        names = [f"unet.{path}.lora_{half}.weight" for path in paths for half in "AB"]
        drawn = torch.cat([weights[name].T.flatten() for name in names])
        assert (drawn - state["unet.ema"]).abs().max() < 1e-7
        for name, row in together.tensors(adapter.style).items():
            assert torch.equal(state[name], row), name
    assert same(result.tensors("05"), together.tensors("05"))


def test_a_resumed_average_goes_on_bit_for_bit(models: Models, moments: Moments, tmp_path: Path) -> None:
    adapters = [replace(with_text(THREE[0]), ema_decay=0.9, text_encoder_start=1), with_text(THREE[1])]
    adapters[1] = replace(adapters[1], text_encoder_start=1)
    whole = run(make_job(moments, models, *adapters, snapshots=(2, 5)), models, tmp_path / "whole")
    resume = {style: whole.folders[style, 2] for style in ("00", "05")}
    job = make_job(moments, models, *adapters, snapshots=(5,), resume=resume, start_step=2)
    second = run(job, models, tmp_path / "second")
    for style in ("00", "05"):
        for file in ("pytorch_lora_weights.safetensors", "state.safetensors", "losses.csv"):
            straight, resumed = (r.folders[style, 5] / file for r in (whole, second))
            assert straight.read_bytes() == resumed.read_bytes(), file
    job = replace(job, adapters=(adapters[0], replace(adapters[1], ema_decay=0.9)))
    with pytest.raises(ConfigError, match="holds no running average"):
        run(job, models, tmp_path / "third")


def test_a_snapshot_of_another_shape_is_not_resumed(models: Models, moments: Moments, tmp_path: Path) -> None:
    first = run(make_job(moments, models, THREE[0], snapshots=(1,)), models, tmp_path / "first")
    resume = {"00": first.folders["00", 1]}
    other = replace(THREE[0], unet=LoraSpec(3, 4.0, ATTENTION))
    with pytest.raises(ConfigError, match="ranks, targets, words or base model differ"):
        run(make_job(moments, models, other, resume=resume, start_step=1), models, tmp_path / "second")
    with pytest.raises(ConfigError, match="was written at step 1, not at start_step = 2"):
        run(make_job(moments, models, THREE[0], resume=resume, start_step=2), models, tmp_path / "third")
