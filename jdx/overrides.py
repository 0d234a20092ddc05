"""The command line before Hydra reads it: what people mean is made plain, what is misspelt is told all at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException

from jdx import ROOT
from jdx.errors import ConfigError, Fault
from jdx.schema import TrialConfig, is_text, leaves
from jdx.spelling import did_you_mean
from jdx.validation import FOREIGN

CONF = ROOT / "conf"
TEXTS = {key for key, field in leaves(TrialConfig).items() if is_text(field)} | {
    "hydra.run.dir",
    "hydra.sweep.dir",
}
"""Settings whose value is one text, such as a path."""


def understood(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra needs them.

    Flags such as -m may stand anywhere: Hydra's parser wants all settings in one piece. `+experiment=NAME` loses its
    plus: an appended group comes last and would undo debug=tiny; the group has a place of its own. A path or prompt
    that Hydra's grammar cannot read (`data.root=/数据/A`, `~/set`, `a(1)`, `ugly, blurry`) is put in quotes.
    """
    settings = [word for word in arguments if "=" in word and not word.startswith("-")]
    flags = [word for word in arguments if "=" not in word or word.startswith("-")]
    sweeps = bool({"-m", "--multirun"} & {*flags}) or any(word.startswith("hydra.mode=") for word in settings)
    return [*(_quoted(_placed(word), sweeps) for word in settings), *flags]


def _placed(word: str) -> str:
    return word.removeprefix("+") if word.startswith("+experiment=") else word


def _quoted(word: str, sweeps: bool) -> str:
    key, equals, value = word.partition("=")
    if not equals or key.lstrip("+") not in TEXTS:
        return word
    parsed = _parse(word)
    listed = "," in value and (parsed is None or parsed.is_sweep_override())
    if (parsed is not None and not listed) or (sweeps and listed):
        return word
    return f"{key}={_in_quotes(value)}"


def _in_quotes(text: str) -> str:
    """As a quoted value of Hydra's grammar, where a backslash counts only before a quote."""
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", text)
    tail = escaped[len(escaped.rstrip("\\")) :]
    return f"'{escaped}{tail}'"


def check_overrides(arguments: Sequence[str]) -> None:
    """Raise ConfigError with every KEY=VALUE that cannot be read, whose KEY is no setting or group, or whose VALUE
    is no option of its group.

    Flags, `+key`, `~key`, `group@package` and Hydra's own keys are left to Hydra; so are options when the command
    line adds config folders of its own.
    """
    own_folders = any(word.startswith(("--config", "-c", "hydra.searchpath")) for word in arguments)
    faults: list[Fault] = []
    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            continue
        override = _parse(argument)
        if override is None:
            key, _, value = argument.partition("=")
            example = "['a b','c']" if value.startswith("[") else _in_quotes(value)
            faults.append(Fault(key, value, f'cannot be read; put texts in quotes: "{key}={example}"'))
        elif not (override.is_add() or override.is_force_add() or override.is_delete() or override.package):
            faults += _key_faults(override) or ([] if own_folders else _option_faults(override))
    if faults:
        raise ConfigError(faults, what="command line")


def _key_faults(override: Override) -> list[Fault]:
    key, names = override.key_or_group, set(leaves()) | _groups().keys() | _foreign()
    if key in names or key.startswith("hydra"):
        return []
    return [
        Fault(key, override.get_value_element_as_str(), f"no such setting{did_you_mean(key, sorted(names))}")
    ]


@cache
def _foreign() -> set[str]:
    """Settings of the groups that are no part of a trial, as their files name them."""
    return {
        f"{group}.{name}"
        for group in FOREIGN
        for path in (CONF / group).glob("*.yaml")
        for name in yaml.safe_load(path.read_text(encoding="utf-8"))
    }


def _option_faults(override: Override) -> list[Fault]:
    options = _groups().get(override.key_or_group)
    if options is None:
        return []
    return [
        Fault(override.key_or_group, name, f"no such option; valid are {', '.join(options)}")
        for name in _names_of(override)
        if name not in options
    ]


def _names_of(override: Override) -> Iterable[str]:
    """The options that a group's override names; none for null and for what only Hydra can expand."""
    value = override.value()
    for element in value.list if isinstance(value, ChoiceSweep) else [value]:
        text = element.text if isinstance(element, QuotedString) else element
        if isinstance(text, str):
            yield text.removesuffix(".yaml")


@cache
def _groups() -> dict[str, list[str]]:
    """{config group: its options}."""
    folders = sorted(path for path in CONF.rglob("*") if path.is_dir())
    return {
        str(folder.relative_to(CONF)): sorted(p.stem for p in folder.glob("*.yaml")) for folder in folders
    }


def _parse(argument: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
