"""Which styles of a set were asked for: ids as people, shells and YAML write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.faults import Findings


def select_styles(
    root: Path, folders: Sequence[Path], wanted: Sequence[str | int] | None, findings: Findings
) -> list[Path]:
    """The folders named by `wanted` (all of them for None), in the set's order, each once.

    An exact name wins; otherwise digits match by number, so 5 and "5" find "05" when only one style is five.
    """
    if wanted is None:
        return list(folders)
    ids = [folder.name for folder in folders]
    if isinstance(wanted, str) or not wanted:
        findings.fault(root, f"the styles asked for are {wanted!r}", f"give a list of: {', '.join(ids)}")
        return []
    chosen = {_match(root, ids, item, findings) for item in wanted}
    return [folder for folder in folders if folder.name in chosen]


def _match(root: Path, ids: Sequence[str], item: str | int, findings: Findings) -> str | None:
    text = str(item)
    if isinstance(item, str) and text in ids:
        return text
    number = int(text) if text.isascii() and text.isdigit() else None
    same = [name for name in ids if name.isascii() and name.isdigit() and int(name) == number]
    if len(same) == 1 and not isinstance(item, bool):
        return same[0]
    if same:
        findings.fault(root, f"style {item!r} is ambiguous", f"quote one of: {', '.join(same)}")
    else:
        findings.fault(root, f"there is no style {item!r}", f"the styles here are: {', '.join(ids)}")
    return None
