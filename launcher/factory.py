"""Executors by name, from settings as YAML writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

from pydantic import TypeAdapter, ValidationError

from jdx.errors import ConfigError, Fault
from jdx.spelling import nearest, told, unknown
from launcher.base import Executor
from launcher.settings import JobSettings

EXECUTORS = {
    "gpu_pool": ("launcher.settings:PoolSettings", "launcher.gpu_pool:GpuPool"),
    "slurm": ("launcher.cluster_settings:SlurmSettings", "launcher.slurm:SlurmExecutor"),
    "hydra": ("launcher.hydra_batches:HydraSettings", "launcher.hydra_batches:HydraBatches"),
    "ray": ("launcher.cluster_settings:RaySettings", "launcher.ray:RayExecutor"),
}
"""name: (record of its settings, its class). Imported when asked for: an executor's engine may not be installed."""
GROUP = "launcher"
COMMON = [field.name for field in fields(JobSettings)]


@dataclass(frozen=True)
class Launch:
    """Checked settings: what a job asks for, and where it runs."""

    name: str
    job: JobSettings
    own: Any
    """The record of the executor's own settings."""

    @property
    def is_here(self) -> bool:
        """Whether jobs are known to run on this machine; what is said nothing of may run anywhere."""
        return bool(getattr(self.own, "is_here", False))

    def executor(self) -> Executor:
        """Make it. Raises: RefusedError with what to install or to start, and what the executor says."""
        maker: Callable[[Any], Executor] = _load(EXECUTORS[self.name][1])
        return maker(self.own)


def build(settings: Mapping[str, Any]) -> Launch:
    """Check `name`, what all executors have in common, and the rest. Raises: ConfigError with every fault."""
    name = str(settings.get("name", ""))
    if name not in EXECUTORS:
        allowed = f"must be one of {', '.join(EXECUTORS)}" + nearest(name, EXECUTORS)
        raise ConfigError([Fault(f"{GROUP}.name", repr(name), allowed)], what=GROUP)
    record = _load(EXECUTORS[name][0])
    valid = [*COMMON, *(field.name for field in fields(record))]
    given = {key: value for key, value in settings.items() if key != "name"}
    faults = [unknown(f"{GROUP}.{key}", given[key], key, valid) for key in given if key not in valid]
    job, some = _checked(JobSettings, {key: given[key] for key in given if key in COMMON}, valid)
    own, more = _checked(
        record, {key: given[key] for key in given if key in valid and key not in COMMON}, valid
    )
    faults += some + more
    if faults:
        raise ConfigError(faults, what=GROUP)
    return Launch(name, job, own)


def _checked(record: Any, settings: Mapping[str, Any], valid: list[str]) -> tuple[Any, list[Fault]]:
    try:
        # As JSON, since pydantic's strict mode takes nested mappings for records only from there.
        return TypeAdapter(record).validate_json(json.dumps(settings)), []
    except ValidationError as error:
        return None, told(error.errors(), GROUP, valid)


def make_executor(settings: Mapping[str, Any]) -> Executor:
    """The executor that `settings['name']` names. Raises: as `build` and `Launch.executor`."""
    return build(settings).executor()


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
