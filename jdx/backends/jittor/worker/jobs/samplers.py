"""Samplers in NumPy, step by step equal to diffusers' schedulers on the same scheduler file.

A sampler walks from the noisiest level to the clean end. Latents are arrays (n, C, h, w); a and s are the signal's
and the noise's amplitude of a level, σ = s / a, λ = log(a / s).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from jdx.backends.base import SamplerSpec
from jdx.backends.jittor.worker.jobs.levels import Config, alphas_cumprod, config_faults, time_steps
from jdx.errors import ConfigError, Fault
from jdx.methods.diffusion import add_noise, ddim_move, to_x0

Level = tuple[float, float]
"""(a, s) of a noise level, a² + s² = 1."""


class Sampler(ABC):
    """One drawing of one batch: `timesteps` are those still to do; `step` is called once for each, in order.

    first: how many of the `spec.steps` steps are left out at the beginning.
    """

    name: str

    def __init__(self, config: Config, steps: int, first: int = 0):
        self.kind = str(config["prediction_type"])
        self.alphas = alphas_cumprod(config)
        self.all_times = time_steps(self.name, config, steps)
        self.place = first

    @property
    def timesteps(self) -> list[float]:
        """What the network is told at each step still to do."""
        return [float(t) for t in self.all_times[self.place :]]

    @property
    def noise_scale(self) -> float:
        """Factor of standard normal noise as the first latent."""
        return 1.0

    def network_input(self, x: Any) -> Any:
        """The latents as the network wants them at the present step."""
        return x

    @abstractmethod
    def noised(self, z: Any, noise: Any) -> Any:
        """The first latent of a drawing that begins at a clean latent z."""

    @abstractmethod
    def step(self, prediction: Any, x: Any) -> Any:
        """The latents one level cleaner, from the network's answer to `network_input(x)`."""


class Ddim(Sampler):
    """Song et al. 2021, η = 0."""

    name = "ddim"

    def __init__(self, config: Config, steps: int, first: int = 0):
        super().__init__(config, steps, first)
        self.stride = len(self.alphas) // steps
        self.end = 1.0 if config.get("set_alpha_to_one", True) else float(self.alphas[0])

    def noised(self, z: Any, noise: Any) -> Any:
        return add_noise(z, noise, *self._level(int(self.all_times[self.place])))

    def step(self, prediction: Any, x: Any) -> Any:
        t = int(self.all_times[self.place])
        self.place += 1
        return ddim_move(self.kind, x, prediction, self._level(t), self._level(t - self.stride))

    def _level(self, t: int) -> Level:
        abar = float(self.alphas[t]) if t >= 0 else self.end
        return math.sqrt(abar), math.sqrt(1 - abar)


class _Sigmas(Sampler):
    """A sampler on a ladder of σ that ends at 0."""

    def __init__(self, config: Config, steps: int, first: int = 0):
        super().__init__(config, steps, first)
        ladder = np.sqrt((1 - self.alphas) / self.alphas)
        between = np.interp(self.all_times, np.arange(len(ladder)), ladder)
        self.sigmas = [float(sigma) for sigma in np.append(between, 0.0).astype(np.float32)]

    def level(self, i: int) -> Level:
        a = 1 / math.sqrt(self.sigmas[i] ** 2 + 1)
        return a, self.sigmas[i] * a

    def noised(self, z: Any, noise: Any) -> Any:
        return add_noise(z, noise, *self.level(self.place))


class Euler(_Sigmas):
    """Karras et al. 2022, algorithm 2 without churn: x is the noisy latent divided by a."""

    name = "euler"

    def __init__(self, config: Config, steps: int, first: int = 0):
        super().__init__(config, steps, first)
        self._starts_at_top = config.get("timestep_spacing", "linspace") in ("linspace", "trailing")

    @property
    def noise_scale(self) -> float:
        top = max(self.sigmas)
        return top if self._starts_at_top else math.sqrt(top**2 + 1)

    def network_input(self, x: Any) -> Any:
        return x * self.level(self.place)[0]

    def noised(self, z: Any, noise: Any) -> Any:
        return z + noise * self.sigmas[self.place]

    def step(self, prediction: Any, x: Any) -> Any:
        a, s = self.level(self.place)
        here, there = self.sigmas[self.place], self.sigmas[self.place + 1]
        self.place += 1
        slope = (x - to_x0(self.kind, a * x, prediction, a, s)) / here
        return x + slope * (there - here)


class _Multistep(_Sigmas):
    """A second-order sampler of data predictions that remembers the one before; first order at both ends."""

    def __init__(self, config: Config, steps: int, first: int = 0):
        super().__init__(config, steps, first)
        self.before: Any = None  # the prediction of x0 one step ago

    def lam(self, i: int) -> float:
        a, s = self.level(i)
        return math.log(a) - math.log(s) if s else math.inf

    def first_order(self) -> bool:
        return self.before is None or self.place == len(self.sigmas) - 2


class DpmPlusPlus(_Multistep):
    """DPM-Solver++ 2M, midpoint (Lu et al. 2022, algorithm 2)."""

    name = "dpmpp"

    def step(self, prediction: Any, x: Any) -> Any:
        i, (a_s, s_s), (a_t, s_t) = self.place, self.level(self.place), self.level(self.place + 1)
        x0 = to_x0(self.kind, x, prediction, a_s, s_s)
        h = self.lam(i + 1) - self.lam(i)
        D = x0
        if not self.first_order():
            r = (self.lam(i) - self.lam(i - 1)) / h
            D = x0 + (x0 - self.before) / (2 * r)
        self.before = x0
        self.place += 1
        return s_t / s_s * x - a_t * math.expm1(-h) * D


class UniPc(_Multistep):
    """UniPC-2 with B(h) = e^h − 1 (Zhao et al. 2023, algorithms 5 to 8): each step's answer also corrects the last."""

    name = "unipc"

    def __init__(self, config: Config, steps: int, first: int = 0):
        super().__init__(config, steps, first)
        self.two_before: Any = None
        self.last: Any = None  # where the last step began, corrected
        self.order = 0  # of the last step

    def step(self, prediction: Any, x: Any) -> Any:
        x0 = to_x0(self.kind, x, prediction, *self.level(self.place))
        if self.last is not None:
            x = self._corrected(x0)
        self.two_before, self.before, self.last = self.before, x0, x
        left = len(self.sigmas) - 1 - self.place
        self.order = min(2, left, self.order + 1)
        self.place += 1
        slope = 0.5 * self._secant() if self.order == 2 else 0.0
        return self._moved(slope)

    def _corrected(self, x0: Any) -> Any:
        """UniC: the last step again, now that the answer at its end is known."""
        difference = x0 - self.before
        if self.order == 1:
            return self._moved(0.5 * difference)
        hh, r = -self._h(), self._r()
        B = math.expm1(hh)
        phi_2 = B / hh - 1
        phi_3 = phi_2 / hh - 0.5
        # Coefficients of the two differences: [[1, 1], [r, 1]] · ρ = [φ_2, 2 φ_3] / B.
        rho_1 = (phi_2 - 2 * phi_3) / B / (1 - r)
        rho_2 = phi_2 / B - rho_1
        return self._moved(rho_1 * self._secant() + rho_2 * difference)

    def _moved(self, slope: Any) -> Any:
        """From where the last step began to its end, with the data prediction's slope along it."""
        (_, s_s), (a_t, s_t) = self.level(self.place - 1), self.level(self.place)
        return s_t / s_s * self.last - a_t * math.expm1(-self._h()) * (self.before + slope)

    def _secant(self) -> Any:
        return (self.two_before - self.before) / self._r()

    def _h(self) -> float:
        return self.lam(self.place) - self.lam(self.place - 1)

    def _r(self) -> float:
        return (self.lam(self.place - 2) - self.lam(self.place - 1)) / self._h()


SAMPLERS: dict[str, type[Sampler]] = {kind.name: kind for kind in (Ddim, UniPc, DpmPlusPlus, Euler)}


def start(spec: SamplerSpec, config: Config, strength: float | None = None) -> Sampler:
    """The sampler of `spec` on a model's scheduler file.

    strength: None to start from noise; else img2img (Meng et al. 2021), which does the last
    min(int(steps · strength), steps) of the steps. Raises ConfigError when none is left, or it is not known here.
    """
    faults = config_faults(config)
    if spec.name not in SAMPLERS:
        faults.append(Fault("sampler.name", spec.name, f"one of: {', '.join(SAMPLERS)}"))
    left = spec.steps if strength is None else min(int(spec.steps * strength), spec.steps)
    if strength is not None and not (0 < strength <= 1 and left > 0):
        allowed = f"above 0, at most 1, and strength · {spec.steps} steps at least 1, or none is left to run"
        faults.append(Fault("init.strength", str(strength), allowed))
    if not faults:
        try:
            return SAMPLERS[spec.name](config, spec.steps, spec.steps - left)
        except ValueError as error:
            faults.append(Fault("sampler.steps", str(spec.steps), str(error)))
    raise ConfigError(faults, "drawing job")
