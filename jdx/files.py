"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, replace: a reader sees the old file or the new one, never half of it.

    The folder is made when it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: `path`'s may already be as long as the file system allows.
    beside = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8, its line ends as they are."""
    write_bytes(path, text.encode())
