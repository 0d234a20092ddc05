"""Tables of words that a setting names: given in the config itself, a YAML or JSON file, or one that comes with jdx."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from jdx import ROOT
from jdx.errors import ConfigError, Fault
from jdx.methods.prompts import OBJECT_FORMS, write
from jdx.schema import StyleWords
from jdx.spelling import told

SHIPPED = ROOT / "data" / "words"
"""NAME.yaml in here is what `method.prompts.expand=NAME` and `method.prompts.styles=NAME` mean."""
DEFAULT = "*"
"""The entry for every name that a table does not hold; a table with it serves any set."""

Given = str | Mapping[str, Any] | None
_Entry = TypeVar("_Entry")


def shipped() -> list[str]:
    """Names of the tables that come with jdx."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def style_table(key: str, given: Given) -> dict[str, StyleWords]:
    """{style: its words}; empty for null. Raises: ConfigError with every fault of the table, below `key`."""
    return _checked(key, _read(key, given), TypeAdapter(dict[str, StyleWords]))


def word_table(key: str, given: Given) -> dict[str, str]:
    """{word in lower case: text}; empty for null. Raises: ConfigError with every fault of the table, below `key`."""
    table = _checked(key, _read(key, given), TypeAdapter(dict[str, str]))
    lowered: dict[str, str] = {}
    for word, text in table.items():
        if word.lower() in lowered:
            raise ConfigError([Fault(f"{key}.{word}", repr(text), "is there twice, but for its case")])
        lowered[word.lower()] = text
    try:
        write(lowered.get(DEFAULT, ""), object="cat")
    except (ValueError, KeyError, IndexError):
        forms = ", ".join(f"{{{form}}}" for form in OBJECT_FORMS)
        what = f"must be a template with no other placeholders than {forms}"
        raise ConfigError([Fault(f"{key}.{DEFAULT}", repr(lowered[DEFAULT]), what)]) from None
    return lowered


def near(name: str, valid: list[str]) -> str:
    """`; did you mean X?`, or the first of the valid names."""
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.7)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    shown = ", ".join(valid[:30]) + (", ..." if len(valid) > 30 else "")
    return f"; valid are {shown}" if valid else ""


def _read(key: str, given: Given) -> Mapping[Any, Any]:
    if given is None:
        return {}
    if not isinstance(given, str):
        return given
    path = Path(given)
    if given in shipped() and not path.is_file():
        path = SHIPPED / f"{given}.yaml"
    if not path.is_file():
        ways = f"a YAML or JSON file, a mapping, or one of {', '.join(shipped())}"
        raise ConfigError([Fault(key, given, f"no such table: give {ways}{near(given, shipped())}")])
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError([Fault(key, given, f"cannot be read: {error}")]) from None
    if not isinstance(content, dict) or not content:
        kind = "empty" if not content else f"a {type(content).__name__}"
        raise ConfigError([Fault(key, given, f"is {kind}, but must be a mapping of names")])
    return content


def _checked(key: str, content: Mapping[Any, Any], kind: TypeAdapter[dict[str, _Entry]]) -> dict[str, _Entry]:
    faults = [
        Fault(f"{key}.{name}", "", 'names are texts; put this one in quotes ("yes" and "no" need it in YAML)')
        for name in content
        if isinstance(name, bool) or not isinstance(name, str | int)
    ]
    if faults:
        raise ConfigError(faults)
    try:
        # As JSON, where pydantic's strict mode takes mappings for records.
        return kind.validate_json(json.dumps({str(name): entry for name, entry in content.items()}))
    except (ValidationError, TypeError) as error:
        problems = error.errors() if isinstance(error, ValidationError) else []
        found = told(problems, key) or [Fault(key, "", f"cannot be written as JSON: {error}")]
        raise ConfigError(found) from None
