"""What a mirrored run says of itself, whole, so that the leaderboard can rank it without its folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RECORD_KEY = "jdx_record"
"""Where the summary keeps metrics.json without single pictures, and trial.json, as JSON text: as nested values, W&B
would spread them over hundreds of columns."""
LONGEST_ID, LONGEST_TAG = 128, 64
"""W&B refuses a run that exceeds them."""
FORBIDDEN = re.compile(r"[^\w.\-]", re.ASCII)
"""What is not taken into an id: more than W&B forbids (/ \\ # ? % :), since it names folders too."""


def about(run_dir: Path) -> dict[str, Any]:
    """trial.json without what only the machine needs; empty when it is not there (yet). Raises: ValueError, OSError."""
    path = run_dir / "trial.json"
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object")
    return {key: value for key, value in content.items() if key not in {"entries", "notes"}}


def record(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The text under RECORD_KEY."""
    styles = metrics.get("styles")
    short = {key: value for key, value in metrics.items() if key not in {"styles", "faults", "selection"}}
    if isinstance(styles, Mapping):
        short["styles"] = {
            style: {key: value for key, value in numbers.items() if key != "pictures"}
            for style, numbers in styles.items()
        }
    return json.dumps({"metrics": short, "about": dict(about)}, ensure_ascii=False, sort_keys=True)


def tags_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What a run is found by: method, model, judges, whether they chose its pictures, and the user's own tags.

    config: the trial's settings as nested dicts.
    """
    part = {name: config.get(name) or {} for name in ("method", "model", "evaluation")}
    candidates = (part["method"].get("select") or {}).get("candidates", 1)
    return (
        str(part["method"].get("name", "?")),
        str(part["model"].get("name", "?")),
        f"judges:{part['evaluation'].get('judges', '?')}",
        *((f"best-of:{candidates}",) if candidates > 1 else ()),
        *config.get("tags", ()),
    )


def safe_id(name: str) -> str:
    """A run id that W&B takes; names that need a change get a digest, so that different ones stay different."""
    if len(name) <= LONGEST_ID and not FORBIDDEN.search(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return f"{FORBIDDEN.sub('_', name)[: LONGEST_ID - 11]}-{digest}"


def safe_tags(tags: Iterable[str]) -> list[str]:
    """Tags that W&B takes: none empty or twice, none over its length (a judge set's path may be long)."""
    short = (tag if len(tag) <= LONGEST_TAG else f"…{tag[1 - LONGEST_TAG :]}" for tag in tags if tag)
    return list(dict.fromkeys(short))
