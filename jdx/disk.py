"""Failures of the disk, told in a sentence instead of a traceback."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jdx.errors import BackendError

FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}
BROKEN = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}


def is_told(error: OSError) -> bool:
    """Whether an error is the disk's (or the user's who pointed to it), not the program's."""
    return error.errno in FULL | REFUSED | BROKEN


@contextmanager
def told(folders: Mapping[str, Path], settings: str = "store.root, hydra.run.dir") -> Iterator[None]:
    """Turn a disk that is full, refuses or breaks into a BackendError with the free space of `folders`.

    settings: those that name them.

    Any other OSError, such as a file that should be there, is a fault of the program and passes with its traceback.
    """
    try:
        yield
    except OSError as error:
        if not is_told(error):
            raise
        raise BackendError(_sentence(error, folders, settings)) from error


def _sentence(error: OSError, folders: Mapping[str, Path], settings: str) -> str:
    where = f": {error.filename}" if error.filename else ""
    places = "; ".join(f"{name} {path} ({free(path)})" for name, path in folders.items())
    remedy = "make room" if error.errno in FULL else "mend it"
    return (
        f"{os.strerror(error.errno or 0)}{where}\n  {places}\n"
        f"Finished stages and training up to the last checkpoint are kept: {remedy}, or give another folder "
        f"({settings}), and the same command goes on."
    )


def free(path: Path) -> str:
    """Room on the disk of a path, or of the nearest folder above it that exists, in words."""
    there = next((one for one in (path, *path.parents) if one.exists()), Path("/"))
    try:
        return f"{shutil.disk_usage(there).free / 2**30:.2f} GiB free"
    except OSError as error:
        return str(error.strerror)
