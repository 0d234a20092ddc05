"""A PostgreSQL server of its own for tests: a temporary folder, a Unix socket, nothing on the network.

Fixtures (offered to every test by tests/conftest.py): `postgres_server`, one server per session and process, and
`postgres_url`, a fresh empty database on it per test, as a URL for SQLAlchemy and Optuna.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest

from tests.servers.server import Server

START_LIMIT = 180.0


def binaries() -> Path | None:
    """Folder with initdb and postgres, the newest of Debian's versions first; None where there is none."""
    debian = Path("/usr/lib/postgresql")
    found = sorted(debian.glob("*/bin"), key=lambda path: int(path.parent.name.split(".")[0]), reverse=True)
    on_path = shutil.which("initdb")
    candidates = [*found, *([Path(on_path).resolve().parent] if on_path else [])]
    return next(
        (each for each in candidates if (each / "initdb").exists() and (each / "postgres").exists()), None
    )


def account() -> str | None:
    """Name of the user that runs the server: PostgreSQL refuses root. None where root finds no such user."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    return next((name for name in ("postgres", "nobody") if _known(name)), None)


def missing() -> str:
    """Why no server can be started here; empty where one can."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed (pip install 'jdx[postgres]')"
    if binaries() is None:
        return "PostgreSQL is not installed (as root: apt-get install postgresql)"
    return (
        "" if account() else "running as root, and there is no user postgres or nobody to run PostgreSQL as"
    )


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


class PostgresServer(Server):
    """One server; `with PostgresServer() as server: server.database()`.

    stop() and start() may be called in between, to see what a client does when its server goes away and comes back.
    """

    def __init__(self) -> None:
        bin_folder, user = binaries(), account()
        if bin_folder is None or user is None:
            raise RuntimeError(missing())
        self.bin = bin_folder
        self.run_as = None if os.geteuid() else user
        self.group = None if os.geteuid() else pwd.getpwnam(user).pw_gid
        # Not pytest's folder: that one is closed to the server's user, and its path may exceed a socket's 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="jdx-pg-", dir="/tmp"))
        self.process: subprocess.Popen[bytes] | None = None
        self._names = (f"db{n}" for n in itertools.count())
        shutil.chown(self.folder, user)
        options = ["--username=jdx", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8"]
        self._run("initdb", "--pgdata", str(self.data), *options)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = "postgres") -> str:
        """URL for SQLAlchemy's and Optuna's storages."""
        return f"postgresql+psycopg://jdx@/{database}?host={self.folder}"

    def database(self) -> str:
        """URL of a new, empty database."""
        name = next(self._names)
        self._run("createdb", "--host", str(self.folder), "--username=jdx", name)
        return self.url(name)

    def start(self) -> None:
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data, "-k", self.folder, "-c", "listen_addresses=", "-F"],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self.run_as,
                group=self.group,
            )
        deadline = time.monotonic() + START_LIMIT
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    "PostgreSQL did not start:\n" + (self.folder / "log.txt").read_text()[-2000:]
                )
            time.sleep(0.1)

    def stop(self, how: Literal["fast", "immediate"] = "fast") -> None:
        """fast: sessions are closed, a clean shutdown; immediate: as a crash, with recovery at the next start."""
        if self.process is None:
            return
        subprocess.run(
            [self.bin / "pg_ctl", "stop", "-D", self.data, "-m", how, "-w"],
            check=False,
            stdout=subprocess.DEVNULL,
            user=self.run_as,
            group=self.group,
        )
        self.process.wait(START_LIMIT)
        self.process = None

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ready(self) -> bool:
        return self._call("pg_isready", "--host", str(self.folder), "--quiet").returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = self._call(program, *arguments)
        if done.returncode:
            raise RuntimeError(f"{program} failed with {done.returncode}:\n{done.stdout}{done.stderr}")

    def _call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = [str(self.bin / program), *arguments]
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            user=self.run_as,
            group=self.group,
        )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server, shared by the tests of this process; who stops it starts it again."""
    if reason := missing():
        pytest.skip(reason)
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """URL of an empty database of this test's own."""
    return postgres_server.database()
