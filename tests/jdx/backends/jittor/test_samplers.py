"""NumPy's samplers against diffusers' schedulers, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from jdx.backends.base import SamplerSpec
from jdx.backends.jittor.worker.jobs.levels import alphas_cumprod, config_faults, read_config, time_steps
from jdx.backends.jittor.worker.jobs.samplers import SAMPLERS, start
from jdx.backends.torch.sampling import start_run
from jdx.errors import ConfigError
from tests.tiny_sd import SCHEDULER

PLAIN = {**SCHEDULER, "clip_sample": False}
MINI = {  # with the keys that today's diffusers writes
    **PLAIN,
    "beta_start": 0.000212636,
    "beta_end": 0.0102585,
    "rescale_betas_zero_snr": False,
    "thresholding": False,
    "timestep_spacing": "leading",
}
TRAILING = {**PLAIN, "timestep_spacing": "trailing", "set_alpha_to_one": True}
LINEAR = {**PLAIN, "beta_schedule": "linear", "timestep_spacing": "linspace"}


def network(x: torch.Tensor, t: float) -> torch.Tensor:
    """Some smooth answer that depends on everything."""
    return torch.sin(1.7 * x + t / 300) * 0.8 + 0.1 * x


@pytest.mark.parametrize(
    "config", [PLAIN, MINI, TRAILING, LINEAR], ids=["sd21", "mini", "trailing", "linspace"]
)
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("steps", "strength"), [(1, None), (2, None), (7, None), (20, None), (20, 0.62)])
def test_steps_equal_diffusers(
    name: Any, kind: str, config: dict[str, Any], steps: int, strength: float | None
) -> None:
    config = {**config, "prediction_type": kind}
    spec = SamplerSpec(name, steps, 1.0)
    theirs, ours = start_run(spec, config, strength), start(spec, config, strength)
    z, noise = torch.randn(2, 2, 4, 6, 6, generator=torch.Generator().manual_seed(3))
    assert ours.timesteps == pytest.approx(theirs.timesteps.tolist(), abs=1e-4)
    assert ours.noise_scale == pytest.approx(float(theirs.scheduler.init_noise_sigma), rel=1e-6)
    if strength is None:
        want = noise * float(theirs.scheduler.init_noise_sigma)
        got = noise.numpy() * ours.noise_scale
    else:
        want = theirs.scheduler.add_noise(z, noise, theirs.timesteps[:1])
        got = ours.noised(z.numpy(), noise.numpy())
    for i, t in enumerate(theirs.timesteps):
        seen = theirs.scheduler.scale_model_input(want, t)
        given = ours.network_input(got)
        assert np.abs(given - seen.numpy()).max() < 1e-5 * float(seen.abs().max()), i
        answer = network(seen, float(t))
        want = theirs.scheduler.step(answer, t, want).prev_sample
        got = ours.step(network(torch.from_numpy(np.asarray(given)), float(t)).numpy(), got)
        assert np.abs(got - want.numpy()).max() < 1e-5 * float(want.abs().max()), i
    assert got.dtype == np.float32


@pytest.mark.parametrize("config", [PLAIN, MINI, LINEAR, {**PLAIN, "beta_schedule": "squaredcos_cap_v2"}])
def test_levels_equal_diffusers_to_the_last_digits(config: dict[str, Any]) -> None:
    theirs = DDPMScheduler.from_config(config).alphas_cumprod.double().numpy()
    assert np.abs(alphas_cumprod(config) / theirs - 1).max() < 1e-6


def test_betas_of_ones_own() -> None:
    config = {**PLAIN, "trained_betas": [0.1, 0.2, 0.5]}
    assert alphas_cumprod(config).tolist() == pytest.approx([0.9, 0.72, 0.36], rel=1e-6)


def test_a_scheduler_file_is_read_as_the_pipelines_of_diffusers_do(tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": "PNDMScheduler", "clip_sample": True, "steps_offset": 0}))
    assert read_config(tmp_path) == {"prediction_type": "epsilon", "clip_sample": False, "steps_offset": 1}


def test_settings_that_are_not_known_are_named_together() -> None:
    odd = {**PLAIN, "thresholding": True, "use_karras_sigmas": True, "solver_order": 3}
    with pytest.raises(ConfigError) as caught:
        start(SamplerSpec("unipc", 20, 5.0), odd, 0.01)
    keys = [fault.key for fault in caught.value.faults]
    assert keys == [
        "scheduler.thresholding",
        "scheduler.use_karras_sigmas",
        "scheduler.solver_order",
        "init.strength",
    ]
    assert config_faults(PLAIN) == config_faults(MINI) == []


def test_too_many_steps_are_refused_with_the_number_of_levels() -> None:
    with pytest.raises(ConfigError, match="1000 noise levels"):
        start(SamplerSpec("ddim", 1000, 1.0), {**PLAIN, "prediction_type": "epsilon"})
    with pytest.raises(ValueError, match="1000 noise levels"):
        time_steps("euler", PLAIN, 0)
