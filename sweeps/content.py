"""What a study is about, in words: two sweeps may share a study only when these words are equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jdx.errors import ConfigError, Fault
from sweeps.space import Space


@dataclass(frozen=True)
class Content:
    """The search space, the objective, and every setting that all trials share."""

    space: Mapping[str, str]
    directions: Sequence[str]
    objectives: Sequence[str]
    seeds: Sequence[int]
    settings: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {
            "space": dict(self.space),
            "directions": list(self.directions),
            "objectives": list(self.objectives),
            "seeds": list(self.seeds),
            "settings": dict(self.settings),
        }

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits."""
        text = json.dumps(self.plain(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def content_of(
    space: Space, config: Mapping[str, Any], ignored: Iterable[str], rest: Mapping[str, Sequence[Any]]
) -> Content:
    """The content of a sweep.

    config: the composed configuration, interpolations as written; ignored: dotted keys and groups that cannot change
    a score; rest: directions, objectives and seeds.
    """
    searched = {key.lstrip("+").partition("@")[0] for key in space.dimensions}
    dropped = (*ignored, *(key for key in searched))
    settings = {
        key: json.dumps(value, ensure_ascii=False, default=str)
        for key, value in flat(config).items()
        if not any(key == one or key.startswith(f"{one}.") for one in dropped)
    }
    return Content(
        space.content(),
        [str(one) for one in rest["directions"]],
        [str(one) for one in rest["objectives"]],
        [int(one) for one in rest["seeds"]],
        settings,
    )


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested mappings."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def check_same(before: Mapping[str, Any], now: Content, where: str) -> None:
    """Refuse to go on with a study that is about something else. Raises: ConfigError naming every difference."""
    faults = []
    ours = now.plain()
    for part in ("space", "settings"):
        was, is_now = before.get(part, {}), ours[part]
        for key in sorted(was.keys() | is_now.keys()):
            if was.get(key) != is_now.get(key):
                text = f"the study was begun with {was.get(key, 'nothing')}"
                faults.append(Fault(key, str(is_now.get(key, "nothing")), text))
    for part in ("directions", "objectives", "seeds"):
        if before.get(part, []) != ours[part]:
            faults.append(Fault(part, str(ours[part]), f"the study was begun with {before.get(part)}"))
    if faults:
        remedy = (
            "give this sweep a name of its own (hydra.sweeper.study_name=NAME), or go back to what it was"
        )
        faults.append(Fault("hydra.sweeper.study_name", where, remedy))
        raise ConfigError(faults, what="sweep: the study there is about something else")
