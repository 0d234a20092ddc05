"""Noise levels and time steps as a model's scheduler file gives them, in NumPy; equal to diffusers' schedulers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jdx.errors import Fault

Doubles = npt.NDArray[np.float64]
Config = Mapping[str, Any]

SPACING = {"ddim": "leading", "unipc": "linspace", "dpmpp": "linspace", "euler": "linspace"}
"""Spacing of the time steps where the scheduler file does not say it: each diffusers scheduler has its own."""
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
ORDINARY: Mapping[str, tuple[object, ...]] = {
    "thresholding": (False,),
    "rescale_betas_zero_snr": (False,),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "shift_terminal": (None,),
    "algorithm_type": ("dpmsolver++",),
    "solver_order": (2,),
    "solver_type": ("midpoint", "logrho", "bh2"),
    "lower_order_final": (True,),
    "euler_at_final": (False, True),  # the last step is of first order in any case where sigma ends at zero
    "final_sigmas_type": ("zero",),
    "predict_x0": (True,),
    "disable_corrector": ([], None),
    "lambda_min_clipped": (-math.inf, None),
    "variance_type": (None, "fixed_small", "fixed_large"),  # of samplers that add noise, which these do not
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "beta_schedule": BETAS,
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
}
"""Values of a scheduler file that the samplers here know; a key that is not named changes none of them."""


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's scheduler file, with what every Stable Diffusion pipeline of diffusers enforces."""
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    return {"prediction_type": "epsilon", **config, "clip_sample": False, "steps_offset": 1}


def config_faults(config: Config) -> list[Fault]:
    """Settings of a scheduler file that these samplers do not know."""
    return [
        Fault(
            f"scheduler.{key}", str(config[key]), f"only {_listed(known)} with Jittor; or use backend=torch"
        )
        for key, known in ORDINARY.items()
        if key in config and config[key] not in known
    ]


def _listed(values: Sequence[object]) -> str:
    return " or ".join("null" if value is None else str(value) for value in values)


def alphas_cumprod(config: Config) -> Doubles:
    """ᾱ_t (T,), computed in float32 where diffusers does, so that the last digits agree."""
    T = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = np.array(config["trained_betas"], np.float32)
    elif kind == "linear":
        betas = _linspace(start, end, T)
    elif kind == "scaled_linear":
        betas = _linspace(start**0.5, end**0.5, T) ** 2
    elif kind == "squaredcos_cap_v2":  # Nichol and Dhariwal 2021
        bars = [math.cos((i / T + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(T + 1)]
        betas = np.array([min(1 - bars[i + 1] / bars[i], 0.999) for i in range(T)], np.float32)
    else:
        raise ValueError(f"beta_schedule = {kind!r}: expected one of {', '.join(BETAS)}")
    # The product is accumulated in float64 and kept in float32, as torch.cumprod on a CPU.
    return np.cumprod((np.float32(1) - betas).astype(np.float64)).astype(np.float32).astype(np.float64)


def _linspace(start: float, end: float, count: int) -> npt.NDArray[np.float32]:
    """torch.linspace in float32: the first half counted from the start, the second from the end."""
    first, last = np.float32(start), np.float32(end)
    step = (last - first) / np.float32(count - 1)
    i = np.arange(count, dtype=np.float32)
    halves = np.where(i < count // 2, first + step * i, last - step * (count - 1 - i))
    return halves.astype(np.float32)


def time_steps(name: str, config: Config, steps: int) -> Doubles:
    """The time steps of a drawing, from the noisiest; Euler's may lie between whole ones.

    Raises: ValueError when the model has not so many noise levels.
    """
    T = int(config.get("num_train_timesteps", 1000))
    spacing, offset = config.get("timestep_spacing", SPACING[name]), int(config.get("steps_offset", 0))
    # UniPC and DPM-Solver++ make one step more than they use: the clean end is no step of theirs.
    spare = int(name in ("unipc", "dpmpp"))
    times: Doubles
    if spacing == "linspace":
        even = np.linspace(0, T - 1, steps + spare)[::-1]
        times = np.asarray(even.astype(np.float32) if name == "euler" else even.round(), np.float64)
    elif spacing == "leading":
        times = np.asarray((np.arange(steps + spare) * (T // (steps + spare)))[::-1] + offset, np.float64)
    elif spacing == "trailing":
        return _within(np.arange(T, 0, -T / steps).round() - 1.0, steps, T)
    else:
        raise ValueError(f"timestep_spacing = {spacing!r}: expected leading, linspace or trailing")
    return _within(times[:-1] if spare else times, steps, T)


def _within(times: Doubles, steps: int, T: int) -> Doubles:
    if steps < 1 or len(times) == 0 or times.max() > T - 1 or len(set(times.tolist())) < len(times):
        raise ValueError(f"steps = {steps}: the model knows {T} noise levels")
    return np.asarray(times, np.float64)
