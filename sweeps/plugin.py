"""What Hydra loads to find the sweeper; light, since Hydra imports every plugin at every start."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class JdxSweeper(Sweeper):
    """Searches with Optuna, or lists a grid; any number of jobs at once; the same command goes on where it ended."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's call before `sweep`."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep; returns its report (`sweeps.results.Report`)."""
        from sweeps.sweeper import sweep  # Optuna takes a second to import

        assert self.hydra_context is not None
        assert self.config is not None
        return sweep(self.settings, arguments, self.hydra_context, self.task_function, self.config)


DEFAULTS: dict[str, Any] = {
    "sampler": {"_target_": "optuna.samplers.TPESampler", "grid_when_finite": True, "seed": None},
    "pruner": None,
    "direction": None,
    "objectives": ["value"],
    "params": None,
    "custom_search_space": None,
    "preflight": None,
    "n_trials": None,
    "n_jobs": None,
    "seeds": [],
    "seed_key": "train.seed",
    "retries": 2,
    "max_failure_rate": 1.0,
    "timeout": None,
    "study_name": None,
    "storage": None,
    "storage_engine": {},
    "storage_patience": 600.0,
    "warm_start": [],
    "not_content": ["launcher"],
}
"""`hydra/sweeper=jdx` for applications other than ours, whose own file is conf/hydra/sweeper/optuna.yaml."""

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="jdx",
    provider="jdx",
    node={"_target_": "hydra_plugins.jdx_sweeper.JdxSweeper", "_recursive_": False, **DEFAULTS},
)
