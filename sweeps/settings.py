"""Settings of the sweeper, `hydra.sweeper.*`: the keys of hydra-optuna-sweeper, and ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from jdx.errors import ConfigError, Fault
from jdx.spelling import told
from sweeps.upstream import Translation

Count = Annotated[int, Field(ge=1)]
Directions = (
    Literal["minimize", "maximize"] | Annotated[list[Literal["minimize", "maximize"]], Field(min_length=1)]
)
MISSING_DIRECTION = (
    "missing: maximize, minimize, or one for each objective "
    "(hydra-optuna-sweeper takes minimize where nothing is said)"
)
RESERVED = {"_target_", "_recursive_", "_convert_", "_partial_"}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Settings:
    """How a sweep searches. docs/sweeps.md explains each."""

    sampler: Any  # {_target_: class, its settings...} or a name
    direction: Directions  # one, or one per objective
    pruner: Any = None  # {_target_: class, ...}, a name, or null: every trial runs to its end
    storage: str | None = None  # URL of a database; null = SQLite in the sweep's folder
    storage_engine: dict[str, Any] = Field(
        default_factory=dict
    )  # further arguments of SQLAlchemy's create_engine
    study_name: str | None = None  # null = from what is searched, so that the same command goes on
    n_trials: Count | None = None  # null = the whole grid, or 20
    n_jobs: Count | None = None  # at once; null = as many as the launcher has room for
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 1.0  # share of failed trials that ends the sweep
    params: dict[str, Any] | None = None  # the search space
    custom_search_space: str | None = None  # module.function(trial, config) for what depends on other values
    preflight: str | None = None  # module.function(points, here=...), asked before the first trial
    timeout: Annotated[float, Field(gt=0)] | None = None  # seconds of one job; null = launcher.timeout
    retries: Annotated[int, Field(ge=0)] = 2  # of a failed attempt
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list
    )  # repetitions of each point; [] = one
    seed_key: str = "train.seed"  # the setting that the repetitions differ in
    objectives: list[str] = Field(default_factory=lambda: ["value"])  # value, gpu_seconds, metrics.KEY
    warm_start: list[str] = Field(default_factory=list)  # run folders, sweep folders, URL#study
    not_content: list[str] = Field(default_factory=list)  # settings that cannot change a score
    storage_patience: Annotated[float, Field(gt=0)] = 600.0  # seconds to wait for an absent storage

    @property
    def directions(self) -> list[str]:
        """One per objective."""
        return [self.direction] if isinstance(self.direction, str) else list(self.direction)


def build_settings(given: Mapping[str, Any]) -> Settings:
    """Check the sweeper's settings. Raises: ConfigError with every fault."""
    translation = Translation(plain_settings(given))
    settings, faults = translation.settings, translation.faults
    if settings.get("direction") in (None, "???", []):
        settings["direction"] = "maximize"
        faults.append(Fault("hydra.sweeper.direction", "", MISSING_DIRECTION))
    try:
        built: Settings = TypeAdapter(Settings).validate_json(json.dumps(settings, default=str))
    except ValidationError as error:
        valid = [field.name for field in fields(Settings)]
        raise ConfigError([*faults, *told(error.errors(), "hydra.sweeper", valid)], what="sweep") from None
    faults += contradictions(built)
    if faults:
        raise ConfigError(faults, what="sweep")
    return built


def plain_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Hydra's containers as plain ones, without its own keys."""
    return {str(key): _plain(value) for key, value in given.items() if key not in RESERVED}


def _plain(value: Any) -> Any:
    if isinstance(value, (DictConfig, ListConfig)):
        return OmegaConf.to_container(value, resolve=True, enum_to_str=True)
    return getattr(value, "name", value)  # an enum, as hydra-optuna-sweeper has one for directions


def _stops(pruner: Any) -> bool:
    """Whether this setting can end a trial early."""
    target = str(pruner.get("_target_")) if isinstance(pruner, Mapping) else str(pruner)
    return pruner is not None and target != "none" and not target.endswith(".NopPruner")


def contradictions(settings: Settings) -> list[Fault]:
    """Faults that need two settings to see."""
    faults = []
    named = settings.objectives != ["value"]
    if _stops(settings.pruner) and (named or settings.directions != ["maximize"]):
        remedy = (
            "trials are stopped by the scores of their styles, of which more is better: direction=maximize and "
            "objectives=[value], or hydra/sweeper/pruner=none"
        )
        faults.append(Fault("hydra.sweeper.pruner", str(settings.pruner), remedy))
    if named and len(settings.objectives) != len(settings.directions):
        remedy = f"{len(settings.directions)} directions are given; one objective for each"
        faults.append(Fault("hydra.sweeper.objectives", str(settings.objectives), remedy))
    for name in settings.objectives:
        if name not in {"value", "gpu_seconds"} and not name.startswith("metrics."):
            remedy = "must be value (what the task returns), gpu_seconds, or metrics.KEY of metrics.json"
            faults.append(Fault("hydra.sweeper.objectives", name, remedy))
    if len(set(settings.seeds)) != len(settings.seeds):
        faults.append(Fault("hydra.sweeper.seeds", str(settings.seeds), "names a seed twice"))
    if settings.storage and "://" not in settings.storage:
        remedy = "must be a URL such as sqlite:///study.db or postgresql://user@host/database"
        faults.append(Fault("hydra.sweeper.storage", settings.storage, remedy))
    return faults
