"""The command line before Hydra reads it: what people mean is made plain, what is misspelt is told all at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException

from jdx import ROOT
from jdx.errors import ConfigError, Fault
from jdx.schema import TrialConfig, is_text, leaves
from jdx.spelling import did_you_mean, nearest
from jdx.validation import FOREIGN

CONF = ROOT / "conf"
TEXTS = {key for key, field in leaves(TrialConfig).items() if is_text(field)} | {
    "hydra.run.dir",
    "hydra.sweep.dir",
}
"""Settings whose value is one text, such as a path."""
OF_PLUGINS = {"hydra/sweeper"}
"""Groups with options of Hydra's and its plugins', which Hydra lists itself when one is misspelt."""
CONFIG_PATH = {"--config-path", "-cp"}
MULTIRUN = {"-m", "--multirun"}


def understood(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra needs them.

    Flags such as -m may stand anywhere: Hydra's parser wants all settings in one piece. `+experiment=NAME` loses its
    plus: an appended group comes last and would undo debug=tiny; the group has a place of its own. A path or prompt
    that Hydra's grammar cannot read (`data.root=/数据/A`, `~/set`, `a(1)`, `ugly, blurry`) is put in quotes. A relative
    --config-path begins at the current folder, where people see it; Hydra would begin at jdx/.
    """
    settings = [word for word in arguments if "=" in word and not word.startswith("-")]
    flags = [word for word in arguments if "=" not in word or word.startswith("-")]
    sweeps = _sweeps(arguments)
    return [*(_quoted(_placed(word), sweeps) for word in settings), *_anchored(flags)]


def _anchored(flags: Sequence[str]) -> list[str]:
    words = []
    for word, before in zip(flags, ["", *flags], strict=False):
        flag, equals, value = word.partition("=")
        if equals and flag in CONFIG_PATH:
            word = f"{flag}={Path(value).absolute()}"
        words.append(str(Path(word).absolute()) if before in CONFIG_PATH else word)
    return words


def _sweeps(arguments: Sequence[str]) -> bool:
    return bool(MULTIRUN & {*arguments}) or any(word.startswith("hydra.mode=") for word in arguments)


def forgotten_flag(arguments: Sequence[str]) -> str | None:
    """What to say where a search is described and `-m`, which begins one, is missing; None where nothing is."""
    marks = ("sweep=", "hydra.sweeper.", "hydra/sweeper")
    words = [word for word in arguments if word.startswith(marks) and word != "sweep=null"]
    if (
        not words
        or _sweeps(arguments)
        or {"--cfg", "-c", "--info", "-i", "--help", "--hydra-help"} & {*arguments}
    ):
        return None
    return f"one trial: without -m nothing is searched ({', '.join(words)})"


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
    faults = _stray_faults(arguments) + _flag_faults(arguments)
    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            continue
        override = _parse(argument)
        if override is None:
            key, _, value = argument.partition("=")
            example = "['a b','c']" if value.startswith("[") else _in_quotes(value)
            faults.append(Fault(key, value, f'cannot be read; put texts in quotes: "{key}={example}"'))
        elif not (override.is_add() or override.is_force_add() or override.is_delete() or override.package):
            value = argument.partition("=")[2]
            faults += _key_faults(override.key_or_group, value, own_folders) or (
                [] if own_folders else _option_faults(override)
            )
    if faults:
        raise ConfigError(faults, what="command line")


def _stray_faults(arguments: Sequence[str]) -> list[Fault]:
    """Words that are neither a flag, nor what follows one, nor KEY=VALUE."""
    pairs = zip(arguments, ["", *arguments], strict=False)
    strays = [word for word, before in pairs if "=" not in word and not before.startswith("-")]
    return [Fault(word, "", _stray(word)) for word in strays if word and not word.startswith(("-", "~"))]


def _flag_faults(arguments: Sequence[str]) -> list[Fault]:
    """Hydra's own refusal of two commands in one is a traceback."""
    flags = {word.partition("=")[0] for word in arguments}
    both = MULTIRUN & flags and {"--cfg", "-c"} & flags
    allowed = "shows nothing with --cfg: leave it out, and give each setting one value"
    return [Fault("-m", "", allowed)] if both else []


def _stray(word: str) -> str:
    if word in _names():
        return f"has no value: {word}=VALUE"
    meant = [f"{group}={word}" for group, options in _groups().items() if word in options]
    hint = f"; did you mean {' or '.join(meant)}?" if meant else did_you_mean(word, _names())
    return f"is no setting with its value: KEY=VALUE{hint}"


def _key_faults(key: str, value: str, own_folders: bool) -> list[Fault]:
    names = _names()
    if key.startswith("hydra.sweeper.") and not own_folders:
        key = ".".join(key.split(".")[:3])  # what is below, such as a sampler's settings, is its own
        names = _sweeper()
    elif key.startswith("hydra"):
        return []
    return [] if key in names else [Fault(key, value, f"no such setting{did_you_mean(key, names)}")]


@cache
def _names() -> list[str]:
    """Every setting and config group."""
    return sorted(set(leaves()) | _groups().keys() | _foreign())


@cache
def _sweeper() -> list[str]:
    """Settings of the sweeper, as its file names them."""
    settings = yaml.safe_load((CONF / "hydra" / "sweeper" / "optuna.yaml").read_text(encoding="utf-8"))
    return [f"hydra.sweeper.{name}" for name in ("sampler", "pruner", *settings) if name != "defaults"]


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
    if options is None or override.key_or_group in OF_PLUGINS:
        return []
    return [
        Fault(override.key_or_group, name, f"must be one of {', '.join(options)}{nearest(name, options)}")
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
