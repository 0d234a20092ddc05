"""Private folders for work in hand: gone when it ends, and those of a killed process at a later start.

FOLDER.lock is held (flock) from before the folder is there until after it is gone, and the kernel frees it however its
process ends. So a folder whose lock is free belongs to nobody, also while others start.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


def lock_of(folder: Path) -> Path:
    """The file beside a workspace that its process holds."""
    return folder.with_suffix(".lock")


@contextmanager
def workspace(folder: Path, mode: int = 0o777) -> Iterator[Path]:
    """Make a folder that nobody else has, and remove it in the end. mode: its permissions, less the umask."""
    with FileLock(lock_of(folder)):
        folder.mkdir(mode=mode)
        try:
            yield folder
        finally:
            _remove(folder)


def sweep(folders: Iterable[Path]) -> None:
    """Remove those of some workspaces whose process is gone; one that cannot be removed now is left for the next."""
    for folder in folders:
        with suppress(Timeout), FileLock(lock_of(folder)).acquire(timeout=0):
            _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        lock_of(folder).unlink(missing_ok=True)
