"""Finished stages, kept by what went into them: content-addressed, locked, published by rename.

An entry is a folder `ROOT/STAGE/KEY[/PART]`. KEY is a hash of everything that can change the content; `entry.json`
inside says in plain words what that was, and names every file with its size. A folder that exists is complete: it was
built beside and renamed. An entry whose files were cut or removed since is said, dropped and made again. A crash leaves
at most a workspace below `ROOT/.work`, which the next process that opens the store removes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jdx.errors import ConfigError, Fault
from jdx.files import write_text
from jdx.workspaces import lock_of, sweep, workspace

log = logging.getLogger(__name__)

ENTRY = "entry.json"
CLAIM = "claimed"
PATIENCE = 3.0  # seconds of waiting for another process before saying so


def canonical(content: Any) -> str:
    """JSON with sorted keys; dataclasses, paths and tuples allowed; equal content gives equal text."""
    return json.dumps(content, sort_keys=True, default=_plain, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot be part of a store key: {value!r} of type {type(value).__name__}")


def key_of(content: Mapping[str, Any]) -> str:
    """24 hexadecimal digits of the SHA-256 of the canonical content."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:24]


class Store:
    """A folder of finished stages, shared by any number of processes of one file system."""

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser().absolute()
        try:
            (self.root / ".work").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            remedy = "give a folder that can be made and written, or export JDX_STORE"
            raise ConfigError([Fault("store.root", str(root), f"{error.strerror}; {remedy}")]) from error
        self._sweep()

    def path(self, stage: str, key: str, part: str = "") -> Path:
        """Where an entry is or would be."""
        return self.root / stage / key / part if part else self.root / stage / key

    def find(self, stage: str, key: str, part: str = "") -> Path | None:
        """The finished entry, or None. One that lost files or parts of them is dropped, and said so."""
        path = self.path(stage, key, part)
        why = damage_of(path)
        if why is None:
            with suppress(OSError):  # a read-only store, or one of somebody else
                os.utime(path / ENTRY)  # when it was last used, for `python -m jdx.store gc`
            return path
        if path.is_dir() and (part or not _has_parts(path)):
            log.warning("%s is damaged (%s): it is dropped and will be made again", path, why)
            self._discard(stage, key, part, lambda folder: damage_of(folder) is not None)
        return None

    def parts(self, stage: str, key: str) -> list[str]:
        """Names of the finished parts of an entry, sorted."""
        folder = self.path(stage, key)
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return [name for name in names if self.find(stage, key, name) is not None]

    def publish(self, folder: Path, stage: str, key: str, part: str = "", **record: Any) -> Path:
        """Move a built folder into the store and return its final path.

        record: what the key was made of, kept in entry.json. If another process was first, its entry stands.
        """
        target = self.path(stage, key, part)
        entry = {"stage": stage, "key": key, "part": part, "created": time.time(), "files": _sizes(folder)}
        entry["sha256"] = {name: _sha256(folder / name) for name in _sizes(folder)}
        entry |= record
        write_text(folder / ENTRY, json.dumps(entry, indent=1, default=_plain, ensure_ascii=False))
        _sync(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(target)
        except OSError:
            if self.find(stage, key, part) is None:  # what was in the way was damaged, and is gone now
                folder.rename(target)
            else:
                shutil.rmtree(folder)
        return target

    def claim(self, stage: str, key: str, part: str = "") -> Path | None:
        """Find an entry and mark it as wanted, so that `discard(unclaimed=True)` leaves it alone."""
        path = self.find(stage, key, part)
        if path is None:
            return None
        try:
            (path / CLAIM).touch()
        except FileNotFoundError:  # discarded since
            return None
        except PermissionError:  # somebody else's read-only store: nobody discards there
            return path
        return self.find(stage, key, part)

    def discard(self, stage: str, key: str, part: str = "", *, unclaimed: bool = False) -> None:
        """Remove an entry; with `unclaimed`, only if nobody has claimed it.

        The folder is moved away before the mark is looked for: a claim made before the move is seen and the entry
        goes back, a claim made after it fails. So no entry vanishes after its claim.
        """
        self._discard(stage, key, part, lambda folder: not unclaimed or not (folder / CLAIM).exists())

    def _discard(self, stage: str, key: str, part: str, doom: Callable[[Path], bool]) -> None:
        target = self.path(stage, key, part)
        doomed = self.root / ".work" / f"doomed-{uuid.uuid4().hex}"
        with FileLock(lock_of(doomed)):
            try:
                target.rename(doomed)
            except FileNotFoundError:
                return
            if doom(doomed):
                shutil.rmtree(doomed)
            else:
                doomed.rename(target)
        lock_of(doomed).unlink(missing_ok=True)

    @contextmanager
    def locked(self, stage: str, keys: Iterable[str], what: str = "") -> Iterator[None]:
        """Hold the locks of some entries, taken in sorted order so that no two processes wait for each other."""
        folder = self.root / ".locks" / stage
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for key in sorted(set(keys)):
                lock = FileLock(folder / f"{key}.lock")
                try:
                    lock.acquire(timeout=PATIENCE)
                except Timeout:
                    log.warning("waiting for another process that is making the same %s", what or stage)
                    lock.acquire()
                stack.callback(lock.release)
            yield

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A private folder on the store's file system, gone afterwards."""
        with workspace(self.root / ".work" / uuid.uuid4().hex) as folder:
            yield folder

    def _sweep(self) -> None:
        """Remove workspaces whose process is gone."""
        sweep(folder for folder in (self.root / ".work").iterdir() if folder.is_dir())


def _sizes(folder: Path) -> dict[str, int]:
    """Size in bytes of every file of an entry that is about to be published."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in {ENTRY, CLAIM})
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage_of(folder: Path) -> str | None:
    """What an entry lacks, or None when it is whole. Sizes only: reading gigabytes to find nothing costs too much."""
    try:
        entry = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
        sizes = entry.get("files", {}).items()
    except FileNotFoundError:
        return f"no {ENTRY}"
    except (ValueError, AttributeError):
        return f"{ENTRY} cannot be read"
    for name, size in sizes:
        try:
            now = (folder / name).stat().st_size
        except FileNotFoundError:
            return f"no {name}"
        if now != size:
            return f"{name} has {now} bytes instead of {size}"
    return None


def _has_parts(folder: Path) -> bool:
    return not (folder / ENTRY).exists() and any((path / ENTRY).exists() for path in folder.iterdir())


def _sync(folder: Path) -> None:
    """Flush every file of a folder to disk, so that a rename never outruns its content."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
