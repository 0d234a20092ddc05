"""Numbers in sentences, and commands as one types them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
    """`1 style`, `3 styles`, `2 entries`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("ry") else f"{count} {noun}s"


def typed(words: Iterable[str]) -> str:
    """Words for a shell, as `shlex.join`, but "x=['a','b']" instead of four quotes around each single one."""
    return " ".join(
        f'"{word}"' if "'" in word and not set('"$`\\!\n') & set(word) else shlex.quote(word)
        for word in words
    )
