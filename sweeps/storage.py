"""Where a study lives: SQLite in the sweep's folder, or a database server; patient with both when they are away."""

from __future__ import annotations

import functools
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import disk_usage
from typing import Any
from urllib.parse import quote

import sqlalchemy
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import make_url

from jdx import disk
from jdx.errors import BackendError

log = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds for which an unreachable storage is asked again."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds between two tries: doubled each time."""
BUSY_TIMEOUT = 20.0
"""Seconds for which SQLite itself waits for another program's lock."""
STUDY_FILE = "study.db"
ROOM = 1 << 20
"""Bytes that a study's journal may take; a disk with less is full."""
DISK_FULL = "53100"
"""PostgreSQL's code."""
GONE = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.InternalError)
"""What an absent, locked or restarting database raises; it may be there again in a moment."""


class StorageGoneError(BackendError):
    """The study's storage stayed away longer than `PATIENCE`. Running jobs are not harmed by it."""


class DamagedError(BackendError):
    """The study's SQLite file is no database any more: nothing is written to it."""


class Patience:
    """Repeats a call to the storage until it is answered, and says so once.

    A full disk is waited for without an end, as everywhere in a sweep: it takes somebody to make room.
    """

    def __init__(
        self, seconds: float = PATIENCE, name: str = "the study's storage", place: Path | None = None
    ):
        self.seconds, self.name, self.place = seconds, name, place
        self.away_since: float | None = None
        self.give_up: Callable[[], bool] = lambda: False
        """Asked between two tries; True ends the waiting (somebody pressed Ctrl-C twice)."""

    def __call__(self, call: Callable[[], Any], *, again: Callable[[Exception], Any] | None = None) -> Any:
        """The result of `call()`. again: what an error after a first try means, which may have been carried out."""
        start, wait, tried = time.monotonic(), FIRST_WAIT, False
        while True:
            try:
                result = call()
            except Exception as error:
                if is_damaged(error):
                    raise DamagedError(self._damaged(error)) from error
                if not is_gone(error):
                    if tried and again is not None:
                        return again(error)
                    raise
                self._bear(error, time.monotonic() - start)
                tried = True
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            self._back()
            return result

    def _bear(self, error: Exception, so_far: float) -> None:
        why, full = _why(error), is_full(error) or (is_blocked(error) and self._no_room())
        if (so_far > self.seconds and not full) or self.give_up():
            raise StorageGoneError(
                f"{self.name} cannot be {'written' if full else 'reached'} for {so_far:.0f} s: {why}\n"
                "Jobs that run go on and their results are kept in the sweep's folder; the same command takes them up."
            ) from error
        if self.away_since is None:
            self.away_since = time.monotonic()
            if full:
                room = f"{self.place}: {disk.free(self.place)}" if self.place else why
                log.warning("the disk of %s is full (%s): it goes on when there is room", self.name, room)
            else:
                log.warning("%s cannot be reached (%s): trying for %.0f s", self.name, why, self.seconds)

    def _no_room(self) -> bool:
        return (
            self.place is not None
            and self.place.parent.is_dir()
            and disk_usage(self.place.parent).free < ROOM
        )

    def _damaged(self, error: Exception) -> str:
        file = self.place or self.name
        return (
            f"{file} is damaged ({_why(error)}); nothing was written to it.\n"
            f"Put a copy of it back, or repair it (sqlite3 {STUDY_FILE} .recover | sqlite3 whole.db, and whole.db in "
            f"its place). Else move it away and begin anew from the finished runs, hydra.sweeper.warm_start=[RUN,...]: "
            "their folders are as they were."
        )

    def _back(self) -> None:
        if self.away_since is not None:
            log.warning("%s is back after %.1f s", self.name, time.monotonic() - self.away_since)
            self.away_since = None


def is_gone(error: BaseException) -> bool:
    """Whether an error says that the database is away for now, and not that the request was wrong."""
    return isinstance(_of_database(error), GONE)


def is_full(error: BaseException) -> bool:
    """Whether the disk below the database has no room: SQLite's own word for it, or PostgreSQL's."""
    told = _of_database(error)
    return _sqlite_code(told) == sqlite3.SQLITE_FULL or getattr(_orig(told), "sqlstate", None) == DISK_FULL


def is_blocked(error: BaseException) -> bool:
    """Whether SQLite could not open or write a file, which is also what it says when its journal finds no room."""
    return _sqlite_code(_of_database(error)) in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}


def is_damaged(error: BaseException) -> bool:
    """Whether SQLite found something else in its file than it had written."""
    return _sqlite_code(_of_database(error)) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _of_database(error: BaseException) -> BaseException | None:
    """The driver's error as SQLAlchemy tells it; Optuna wraps some of them.

    Optuna answers some errors with another query in the same transaction: one that has lost its connection then only
    says that it has to be rolled back (which is done by now), after what broke it.
    """
    told = error.__cause__ if isinstance(error, StorageInternalError) else error
    return told.__context__ if isinstance(told, sqlalchemy.exc.PendingRollbackError) else told


def _orig(error: BaseException | None) -> Any:
    return getattr(error, "orig", None)


def _sqlite_code(error: BaseException | None) -> int | None:
    code = getattr(_orig(error), "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF  # the rest of it tells where


def _why(error: BaseException) -> str:
    return str(_orig(_of_database(error)) or error.__cause__ or error).splitlines()[0]


def _finished_before(error: Exception) -> bool:
    """A try whose answer was lost had been carried out: the trial is finished, which is what was wanted."""
    if isinstance(error, UpdateFinishedTrialError):
        return True
    raise error


def _patient(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(BaseStorage, name), updated=())  # not the mark of an abstract method
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        again = _finished_before if name == "set_trial_state_values" else None
        return self.patience(functools.partial(getattr(self.inner, name), *args, **kwargs), again=again)

    return method


def patient(inner: BaseStorage, patience: Patience) -> BaseStorage:
    """An Optuna storage whose every method is `inner`'s, called through `patience`."""
    names = [n for n, member in vars(BaseStorage).items() if callable(member) and not n.startswith("_")]
    methods = {name: _patient(name) for name in names if name != "check_trial_is_updatable"}
    storage = type("PatientStorage", (BaseStorage,), methods)()
    vars(storage).update(inner=inner, patience=patience)
    assert isinstance(storage, BaseStorage)
    return storage


def sqlite_url(path: Path, *, create: bool) -> str:
    """URL of an SQLite file that is never made anew by opening it: a file that is away must not become an empty one."""
    mode = "rwc" if create else "rw"
    url = sqlalchemy.URL.create(
        "sqlite", database=f"file:{quote(str(path))}", query={"mode": mode, "uri": "true"}
    )
    return url.render_as_string(hide_password=False)


def sqlite_file(url: str) -> Path | None:
    """The file that a plain SQLite URL names; None for servers, and for SQLite's own `file:` addresses."""
    name = make_url(url).database if url.startswith("sqlite") else None
    return Path(name) if name and name != ":memory:" and not name.startswith("file:") else None


def anchored(url: str) -> str:
    """A URL that means the same in any folder: SQLite's file in full."""
    file = sqlite_file(url)
    if file is None:
        return url
    return make_url(url).set(database=str(file.absolute())).render_as_string(hide_password=False)


def open_storage(
    url: str | None, folder: Path, patience: Patience | None = None, engine: Mapping[str, Any] | None = None
) -> BaseStorage:
    """The storage of a sweep: `url`, or SQLite in its folder; engine: further arguments of SQLAlchemy's create_engine.

    Raises: StorageGoneError, DamagedError, ValueError (a bad URL).
    """
    patience = patience or Patience()
    if url is None:
        path = patience.place = folder / STUDY_FILE
        if not path.exists():
            patience(lambda: RDBStorage(sqlite_url(path, create=True)))
        url = sqlite_url(path, create=False)
    if not url.startswith("sqlite"):
        patience.name = f"the study's storage {make_url(url).render_as_string(hide_password=True)}"
    options = {"pool_pre_ping": True, **(engine or {})}
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": BUSY_TIMEOUT} | dict(options.get("connect_args", {}))
    inner = patience(lambda: _open(_driver(url), options))
    return patient(inner, patience)


@dataclass(frozen=True)
class Place:
    """Where a study that is only read lives; url: None for SQLite in `folder`; engine: as `open_storage` takes it."""

    url: str | None
    folder: Path = Path()
    engine: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_sweep(cls, folder: Path, head: Mapping[str, Any]) -> Place:
        """As a sweep's sweep.json says. Raises: KeyError."""
        url = str(head["storage"])
        return cls(None if url == STUDY_FILE else url, folder.absolute(), head.get("storage_engine") or {})

    def __str__(self) -> str:
        """For people, without a password."""
        if self.url is None:
            return STUDY_FILE
        return make_url(self.url).render_as_string(hide_password=True)

    @property
    def gone(self) -> Path | None:
        """Its SQLite file where that is not there: opening it would make an empty one."""
        file = self.folder / STUDY_FILE if self.url is None else sqlite_file(self.url)
        return None if file is None or file.is_file() else file

    def open(self, patience: Patience) -> BaseStorage:
        """Raises: FileNotFoundError, and as `open_storage`."""
        if self.gone is not None:
            raise FileNotFoundError(f"{self.gone} does not exist")
        return open_storage(self.url, self.folder, patience, self.engine)


def _open(url: str, options: dict[str, Any], tries: int = 10) -> BaseStorage:
    """An empty database that several controllers open at once has its tables made by one; the others look again."""
    for left in reversed(range(tries)):
        try:
            return get_storage(RDBStorage(url, engine_kwargs=options))
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            if not left:
                raise
            time.sleep(0.3)
    raise AssertionError("the last try raises or returns")


def _driver(url: str) -> str:
    """PostgreSQL through psycopg 3 unless the URL names a driver."""
    for plain in ("postgresql://", "postgres://"):
        if url.startswith(plain):
            return "postgresql+psycopg://" + url.removeprefix(plain)
    return url
