"""The interpreter with real Jittor, made and compiled once per machine; without one the tests skip and say why."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from jdx.backends.jittor.backend import JittorBackend
from jdx.backends.jittor.environment import Environment, Place
from jdx.backends.jittor.process import import_path

AWAIT = 900.0
"""Seconds at most for those who make it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The test that waits for Jittor has its own time after that."""
    for item in items:
        if "jittor" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(AWAIT + 600))


@pytest.fixture(scope="session")
def jittor() -> Environment:
    """The environment below `$JDX_JITTOR` (default `~/.cache/jdx/jittor`), as `make jittor` leaves it.

    `$JDX_TESTS_AWAIT` is the number of a process that is making it; it is waited for.
    """
    if process := os.environ.get("JDX_TESTS_AWAIT"):
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(int(process)).wait(AWAIT)
    environment = Environment(Place(device="cpu"))
    if lacking := environment.lacks():
        pytest.skip(f"no Jittor here, which `make jittor` would bring: {lacking}")
    return environment


@pytest.fixture(scope="session")
def jittor_backend(jittor: Environment) -> Iterator[JittorBackend]:
    """One warm worker for all tests that ask it for jobs."""
    backend = JittorBackend(jittor.place)
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def jittor_python(jittor: Environment) -> Path:
    """An interpreter with Jittor."""
    return jittor.python


@pytest.fixture(scope="session")
def jittor_env(jittor: Environment, worker_path: Path) -> dict[str, str]:
    """The variables that Jittor runs with, this project's packages on the path."""
    return {**jittor.variables(jittor.found()), "PYTHONPATH": str(worker_path)}


@pytest.fixture(scope="session")
def worker_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a worker has on its path: links to this project's packages."""
    return import_path(tmp_path_factory.mktemp("worker") / "path")


Run = Callable[..., str]


@pytest.fixture(scope="session")
def run_in_jittor(jittor_python: Path, jittor_env: Mapping[str, str]) -> Run:
    """`run_in_jittor(code, *args)`: run Python code (or a .py file) with Jittor; its standard output, or an error."""

    def run(code: str | Path, *args: object) -> str:
        start = [str(code)] if isinstance(code, Path) else ["-c", code]
        done = subprocess.run(
            [str(jittor_python), "-P", *start, *map(str, args)],
            env=dict(jittor_env),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    return run
