"""Executors by name, from settings as YAML writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from pydantic import TypeAdapter, ValidationError

from launcher.base import Executor
from launcher.settings import JobSettings

EXECUTORS = {
    "gpu_pool": ("launcher.settings:PoolSettings", "launcher.gpu_pool:GpuPool"),
    "slurm": ("launcher.cluster_settings:SlurmSettings", "launcher.slurm:SlurmExecutor"),
    "hydra": ("launcher.hydra_batches:HydraSettings", "launcher.hydra_batches:HydraBatches"),
    "ray": ("launcher.cluster_settings:RaySettings", "launcher.ray:RayExecutor"),
}
"""name: (record of its settings, its class). Imported when asked for: an executor's engine may not be installed."""
COMMON = [field.name for field in fields(JobSettings)]

Fault = tuple[str, str, str]
"""Setting, value, what is allowed."""


class LauncherSettingsError(ValueError):
    """Settings of the launcher that cannot be; every one of them is in `faults`."""

    def __init__(self, faults: list[Fault]):
        self.faults = faults
        lines = [f"  - {key} = {value}\n      {allowed}" for key, value, allowed in faults]
        super().__init__(f"{len(faults)} fault{'s' * (len(faults) != 1)} in launcher:\n" + "\n".join(lines))


@dataclass(frozen=True)
class Launch:
    """Checked settings: what a job asks for, and where it runs."""

    name: str
    job: JobSettings
    own: Any
    """The record of the executor's own settings."""

    def executor(self) -> Executor:
        """Make it. Raises: ImportError with what to install, and what the executor says when it cannot be."""
        maker: Callable[[Any], Executor] = _load(EXECUTORS[self.name][1])
        return maker(self.own)


def build(settings: Mapping[str, Any]) -> Launch:
    """Check `name`, what all executors have in common, and the rest. Raises: LauncherSettingsError, every fault."""
    name = str(settings.get("name", ""))
    if name not in EXECUTORS:
        close = get_close_matches(name, EXECUTORS, 1)
        allowed = f"must be one of {', '.join(EXECUTORS)}" + (f"; did you mean {close[0]}?" if close else "")
        raise LauncherSettingsError([("launcher.name", repr(name), allowed)])
    record = _load(EXECUTORS[name][0])
    valid = [*COMMON, *(field.name for field in fields(record))]
    job, faults = _checked(JobSettings, {key: settings[key] for key in settings if key in COMMON}, valid)
    rest = {key: value for key, value in settings.items() if key not in {*COMMON, "name"}}
    own, more = _checked(record, rest, valid)
    if faults or more:
        raise LauncherSettingsError(faults + more)
    return Launch(name, job, own)


def _checked(record: Any, settings: Mapping[str, Any], valid: list[str]) -> tuple[Any, list[Fault]]:
    known = {field.name for field in fields(record)}
    faults = [
        (f"launcher.{key}", repr(settings[key]), _unknown(key, valid)) for key in settings if key not in known
    ]
    some = {key: value for key, value in settings.items() if key in known}
    try:
        return TypeAdapter(record).validate_json(
            json.dumps(some)
        ), faults  # strict mode takes records from JSON only
    except ValidationError as error:
        for one in error.errors():
            key = ".".join(["launcher", *map(str, one["loc"])])
            given = "" if isinstance(one["input"], Mapping) else repr(one["input"])
            faults.append((key, given, one["msg"].removeprefix("Value error, ")))
        return None, faults


def _unknown(key: str, valid: list[str]) -> str:
    close = get_close_matches(key, valid, 1)
    return "no such setting; " + (f"did you mean {close[0]}?" if close else f"valid: {', '.join(valid)}")


def make_executor(settings: Mapping[str, Any]) -> Executor:
    """The executor that `settings['name']` names. Raises: as `build` and `Launch.executor`."""
    return build(settings).executor()


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
