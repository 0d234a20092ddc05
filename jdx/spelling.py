"""Pydantic's errors in the words of people who write overrides, with the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from jdx.errors import Fault
from jdx.schema import DEVICE, LISTED_DEVICE, leaves

WORDS = {
    "int_type": "must be a whole number, written without point or exponent",
    "float_type": "must be a number, such as 0.5 or 1e-4",
    "bool_type": "must be true or false",
    "string_type": "must be a text; quote it if it looks like something else: KEY=\"'5'\"",
    "list_type": "must be a list in brackets, such as [a,b]",
    "tuple_type": "must be a list in brackets, such as [a,b]",
    "dict_type": "must be a mapping in braces, such as {a: b}",
    "string_too_short": "is empty: give a value, or null where the setting has no value by default",
}
"""Pydantic's kinds of errors, said for people who write overrides."""
PATTERNS = {
    DEVICE: "must be auto, cpu, cuda, or one card such as cuda:1",
    LISTED_DEVICE: "must be cpu, or a card such as cuda:0",
}
"""What the schema's patterns allow."""
_MEMBER = re.compile(r"int|str|float|bool|constrained-\w+|(literal|list|dict|function-\w+)\[.*\]|\[key\]")
"""How pydantic names the members of a union, and the keys of a mapping, which are no part of a setting's name."""


def told(
    problems: Iterable[Mapping[str, Any]], below: str = "", valid: Iterable[str] | None = None
) -> list[Fault]:
    """Pydantic's errors as one fault for each value.

    A value that fits no member of a union is reported once per member: what is allowed is put together, and where
    something inside the value is wrong, that is told alone. below: the setting or group that the checked values
    belong to. valid: its settings; None = a trial's.
    """
    allowed: dict[tuple[str, str], list[str]] = {}
    names = None if valid is None else list(valid)
    for problem in problems:
        fault = _fault(problem, below, names)
        allowed.setdefault((fault.key, fault.value), []).append(fault.allowed)
    return [
        Fault(key, value, "; or ".join(dict.fromkeys(ways)))
        for (key, value), ways in allowed.items()
        if not any(other.startswith(f"{key}.") for other, _ in allowed)
    ]


def _fault(problem: Mapping[str, Any], below: str, valid: list[str] | None) -> Fault:
    """One pydantic error in the house's words."""
    location = [str(part) for part in problem["loc"]]
    inner = ".".join(part for part in location if not _MEMBER.fullmatch(part))
    key = ".".join(filter(None, (below, inner)))
    value = problem.get("input")
    if not location:  # a rule between settings, whose message names them
        return Fault(key, "", _said(problem))
    if problem["type"] in {"unexpected_keyword_argument", "extra_forbidden", "unexpected_property"}:
        return unknown(key, value) if valid is None else unknown(key, value, inner, valid)
    if problem["type"] in {"missing", "missing_argument", "missing_keyword_only_argument"}:
        return Fault(key, "", "missing: its config group should set it")
    if problem["type"] == "string_type" and location[-1].isdigit():
        return Fault(key, _short(value), "must be a text: quote it in the list, KEY=\"['5','6']\"")
    if problem["type"] in WORDS:
        return Fault(key, _short(value), WORDS[problem["type"]])
    if problem["type"] == "string_pattern_mismatch":
        return Fault(key, _short(value), PATTERNS[problem["ctx"]["pattern"]])
    return Fault(key, _short(value), _said(problem))


def _said(problem: Mapping[str, Any]) -> str:
    """Pydantic's own words where they are as good as ours, and those of our own checks."""
    text = str(problem["msg"]).removeprefix("Input ").removeprefix("Value error, ")
    return re.sub("^should ", "must ", text)


def unknown(key: str, value: object, name: str | None = None, valid: Iterable[str] | None = None) -> Fault:
    """A setting that there is not; name: how `valid` would call it, where that is not by its whole key."""
    return Fault(key, _short(value), f"no such setting{did_you_mean(name or key, valid)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def did_you_mean(key: str, valid: Iterable[str] | None = None) -> str:
    """`; did you mean X?` for the nearest valid names, or the list of the group's settings."""
    names = list(valid if valid is not None else leaves())
    if near := nearest(key, names):
        return near
    group = key.rpartition(".")[0]
    within = sorted(name for name in names if name.rpartition(".")[0] == group)
    return f"; valid here: {', '.join(within)}" if within else ""


def nearest(key: str, valid: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing where no valid name is near."""
    names = list(valid)
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.75)
    if not near:
        last = key.rsplit(".", 1)[-1]
        near = [name for name in names if name.rsplit(".", 1)[-1] == last][:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""
