"""Names in the challenge layout: object words, style ids, prompts that become file names."""

from __future__ import annotations

import re
import unicodedata

MAX_PROMPT_LENGTH = 100
"""Characters in a prompt; the contest's longest has nine, a sentence has fewer than a hundred."""
MAX_NAME_BYTES = 255
"""Of a file name, in UTF-8: the limit of ext4, APFS and NTFS alike (NTFS counts UTF-16 units)."""


def object_word(stem: str) -> str:
    """The object a reference picture's file stem names: `cypress_tree` → `cypress tree`.

    Underscores are spaces; the contest's stray ones (`wallet_`) and doubled spaces go; hyphens stay.
    """
    return " ".join(stem.replace("_", " ").split())


def same_name(text: str) -> str:
    """Key under which two names would be one file on a case-folding, normalising file system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def file_name_fault(name: str, suffix: str = "") -> str | None:
    """Why `name + suffix` cannot be one portable file or folder name; None when it can."""
    checks = (
        (re.search(r"[/\\]", name), "has a slash"),
        (any(unicodedata.category(c) in ("Cc", "Cs") for c in name), "has a control character"),
        (name.startswith("."), "begins with a dot (the file would be hidden)"),
        (name != name.strip(), "begins or ends with a space"),
        (not name.strip(), "is empty"),
    )
    for bad, why in checks:
        if bad:
            return why
    size = len((name + suffix).encode())
    return f"takes {size} bytes as a file name (at most {MAX_NAME_BYTES})" if size > MAX_NAME_BYTES else None


def prompt_fault(text: str) -> str | None:
    """Why `text` cannot be a prompt that is saved as `text.png`; None when it can."""
    if not text.strip():
        return "is empty"
    if len(text) > MAX_PROMPT_LENGTH:
        return f"has {len(text)} characters (at most {MAX_PROMPT_LENGTH})"
    return file_name_fault(text, ".png")
