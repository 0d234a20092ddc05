"""A look at the command line before Hydra composes: every misspelt setting at once, with the nearest real name."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from jdx import ROOT
from jdx.errors import ConfigError, Fault
from jdx.schema import leaves
from jdx.validation import did_you_mean


def check_overrides(arguments: Sequence[str]) -> None:
    """Raise ConfigError for all arguments of the form KEY=VALUE whose key is no setting and no config group.

    Flags, `+key`, `~key`, `group@package` and Hydra's own keys are left to Hydra.
    """
    valid = set(leaves())
    groups = {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*") if path.is_dir()}
    faults = []
    for argument in arguments:
        override = _parse(argument)
        if override is None or override.is_add() or override.is_force_add() or override.is_delete():
            continue
        key = override.key_or_group
        if override.package or key in valid | groups or key.startswith("hydra"):
            continue
        names = sorted(valid | groups)
        value = override.get_value_element_as_str()
        faults.append(Fault(key, value, f"no such setting{did_you_mean(key, names)}"))
    if faults:
        raise ConfigError(faults, what="command line")


def _parse(argument: str) -> Override | None:
    if argument.startswith("-") or "=" not in argument:
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None  # Hydra says better itself what cannot be parsed
