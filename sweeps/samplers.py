"""Who chooses the next point, and who ends hopeless trials: Optuna's samplers and pruners by name or by target."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from jdx.errors import ConfigError, Fault

SAMPLERS = {
    "tpe": "optuna.samplers.TPESampler",
    "gp": "optuna.samplers.GPSampler",
    "cmaes": "optuna.samplers.CmaEsSampler",
    "nsgaii": "optuna.samplers.NSGAIISampler",
    "nsgaiii": "optuna.samplers.NSGAIIISampler",
    "qmc": "optuna.samplers.QMCSampler",
    "random": "optuna.samplers.RandomSampler",
    "brute_force": "optuna.samplers.BruteForceSampler",
    "grid": "optuna.samplers.GridSampler",
}
PRUNERS = {
    "wilcoxon": "optuna.pruners.WilcoxonPruner",
    "median": "optuna.pruners.MedianPruner",
    "percentile": "optuna.pruners.PercentilePruner",
    "hyperband": "optuna.pruners.HyperbandPruner",
    "successive_halving": "optuna.pruners.SuccessiveHalvingPruner",
    "threshold": "optuna.pruners.ThresholdPruner",
    "none": "optuna.pruners.NopPruner",
}
LISTED = frozenset({SAMPLERS["grid"], SAMPLERS["brute_force"]})
"""These choose nothing: every point there is, once (`sweeps.plan`)."""
OWN_KEYS = frozenset({"grid_when_finite", "_partial_", "_recursive_", "_convert_"})
"""Keys of a sampler's group that are not its constructor's."""
AUTO = {"n_startup_trials": 10, "n_ei_candidates": 24, "multivariate": True, "constant_liar": True}
"""What conf/hydra/sweeper/sampler/auto.yaml sets for TPE."""


def target_of(spec: Any, names: Mapping[str, str], key: str) -> str:
    """The class that a sampler's or pruner's setting names. Raises: ConfigError with the valid names."""
    target = spec.get("_target_") if isinstance(spec, Mapping) else spec
    target = names.get(str(target), target)
    if not isinstance(target, str) or "." not in target:
        raise ConfigError([Fault(key, repr(spec), f"no such one; valid are {', '.join(names)}")])
    return target


def build(spec: Any, names: Mapping[str, str], key: str) -> Any:
    """A sampler or pruner from {_target_, settings...} or a name; settings may be such too. Raises: ConfigError."""
    target = target_of(spec, names, key)
    given = {str(k): v for k, v in spec.items() if k != "_target_"} if isinstance(spec, Mapping) else {}
    settings = {k: v for k, v in given.items() if k not in OWN_KEYS and v is not None}
    try:
        known = set(inspect.signature(get_class(target)).parameters)
        if "grid_when_finite" in given:  # a class of one's own, merged over the settings of `auto`
            settings = {k: v for k, v in settings.items() if k in known or AUTO.get(k) != v}
        unknown = sorted(settings.keys() - known)
        if unknown:
            remedy = f"{target} has no such setting; it has {', '.join(sorted(known))}"
            raise ConfigError([Fault(f"{key}.{k}", repr(settings[k]), remedy) for k in unknown], what="sweep")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return instantiate({"_target_": target, "_convert_": "all", **settings})
    except ConfigError:
        raise
    except Exception as error:  # each class has its own kinds for a wrong number or a missing package
        reason = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        text = f"{str(reason) or type(reason).__name__}; valid names are {', '.join(names)}"
        raise ConfigError([Fault(key, f"{target}({settings})", text)]) from None


def make_sampler(spec: Any) -> BaseSampler:
    """The sampler of `hydra.sweeper.sampler`. Raises: ConfigError."""
    sampler = build(spec, SAMPLERS, "hydra.sweeper.sampler")
    if not isinstance(sampler, BaseSampler):
        raise ConfigError([Fault("hydra.sweeper.sampler", str(spec), "is not an Optuna sampler")])
    return sampler


def make_pruner(spec: Any) -> BasePruner | None:
    """The pruner of `hydra.sweeper.pruner`; None = every trial runs to its end. Raises: ConfigError."""
    if spec is None or spec == "none":
        return None
    pruner = build(spec, PRUNERS, "hydra.sweeper.pruner")
    if not isinstance(pruner, BasePruner):
        raise ConfigError([Fault("hydra.sweeper.pruner", str(spec), "is not an Optuna pruner")])
    return None if isinstance(pruner, optuna.pruners.NopPruner) else pruner
