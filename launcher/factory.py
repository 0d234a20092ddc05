"""Executors by name, from settings as YAML writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from pydantic import TypeAdapter, ValidationError

from launcher.base import Executor

EXECUTORS = {
    "gpu_pool": ("launcher.settings:PoolSettings", "launcher.gpu_pool:GpuPool"),
}
"""name: (its settings, its class). Imported when asked for: an executor's engine may not be installed."""


class LauncherSettingsError(ValueError):
    """Settings of the launcher that cannot be; `faults` are (key, value, what is allowed)."""

    def __init__(self, faults: list[tuple[str, str, str]]):
        self.faults = faults
        lines = [f"  - {key} = {value}\n      {allowed}" for key, value, allowed in faults]
        super().__init__(f"{len(faults)} fault{'s' * (len(faults) != 1)} in launcher:\n" + "\n".join(lines))


def build(settings: Mapping[str, Any]) -> Any:
    """The settings' record, checked. Raises: LauncherSettingsError with every fault."""
    name = str(settings.get("name", ""))
    if name not in EXECUTORS:
        close = get_close_matches(name, EXECUTORS, 1)
        allowed = f"must be one of {', '.join(EXECUTORS)}" + (f"; did you mean {close[0]}?" if close else "")
        raise LauncherSettingsError([("launcher.name", repr(name), allowed)])
    record = _load(EXECUTORS[name][0])
    try:
        return TypeAdapter(record).validate_json(
            json.dumps(dict(settings))
        )  # strict mode takes mappings from JSON only
    except ValidationError as error:
        faults = []
        for one in error.errors():
            key = ".".join(["launcher", *map(str, one["loc"])])
            text = one["msg"].removeprefix("Value error, ")
            if one["type"] == "unexpected_keyword_argument":
                known = list(record.__dataclass_fields__)
                close = get_close_matches(str(one["loc"][-1]), known, 1)
                text = f"no such setting; did you mean {close[0]}?" if close else f"valid: {', '.join(known)}"
            given = "" if isinstance(one["input"], Mapping) else repr(one["input"])
            faults.append((key, given, text))
        raise LauncherSettingsError(faults) from None


def make_executor(settings: Mapping[str, Any]) -> Executor:
    """The executor that `settings['name']` names. Raises: LauncherSettingsError, ImportError with what to install."""
    checked = build(settings)
    maker: Callable[[Any], Executor] = _load(EXECUTORS[checked.name][1])
    return maker(checked)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
