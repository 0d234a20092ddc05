"""Pydantic's errors in the words of people who write overrides, with the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from jdx.errors import Fault
from jdx.schema import leaves

WORDS = {
    "int_type": "must be a whole number, written without point or exponent",
    "float_type": "must be a number, such as 0.5 or 1e-4",
    "bool_type": "must be true or false",
    "string_type": "must be a text; quote it if it looks like something else: KEY=\"'5'\"",
    "list_type": "must be a list in brackets, such as [a,b]",
    "string_too_short": "is empty: give a value, or null where the setting has no value by default",
}
"""Pydantic's kinds of errors, said for people who write overrides."""


def fault_of(problem: Mapping[str, Any]) -> Fault:
    """One pydantic error in the house's words."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(part for part in location if part not in {"int", "str", "float"})
    value = problem.get("input")
    if problem["type"] in {"unexpected_keyword_argument", "extra_forbidden", "unexpected_property"}:
        return Fault(key, repr(value), f"no such setting{did_you_mean(key)}")
    if problem["type"] in {"missing", "missing_argument", "missing_keyword_only_argument"}:
        return Fault(key, "", "missing: its config group should set it")
    if problem["type"] in WORDS:
        return Fault(key, _short(value), WORDS[problem["type"]])
    text = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return Fault(key, _short(value), text)


def faults_of(problems: Iterable[Mapping[str, Any]], below: str) -> list[Fault]:
    """Pydantic's errors of a table that the setting `below` holds, each below that name."""
    return [fault_of({**problem, "loc": (below, *problem["loc"])}) for problem in problems]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def did_you_mean(key: str, valid: Iterable[str] | None = None) -> str:
    """`; did you mean X?` for the nearest valid names, or the list of the group's settings."""
    names = list(valid if valid is not None else leaves())
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.75)
    if not near:
        last = key.rsplit(".", 1)[-1]
        near = [name for name in names if name.rsplit(".", 1)[-1] == last][:3]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    group = key.rpartition(".")[0]
    within = sorted(name for name in names if name.rpartition(".")[0] == group)
    return f"; valid here: {', '.join(within)}" if within else ""
