"""Sharing the tests between processes: the order, the number of processes, and what tells that the list is old."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from jdx import ROOT
from tests import order


def reports(**seconds: float) -> list[Any]:
    """Of two tests a file, each with half of its time."""
    return [
        SimpleNamespace(nodeid=f"tests/{name}.py::test_{i}", duration=took / 2)
        for name, took in seconds.items()
        for i in range(2)
    ]


def items(*ids: str) -> list[Any]:
    return [SimpleNamespace(nodeid=one) for one in ids]


def test_long_files_come_first_and_nothing_else_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "LONGEST", ("tests/test_order.py", "tests/conftest.py"))
    given = items(
        "a::1", "tests/conftest.py::2", "b::3", "tests/test_order.py::5", "tests/test_order.py::4", "a::0"
    )
    order.in_order(given)
    assert [one.nodeid.partition("::")[2] for one in given] == ["5", "4", "2", "1", "3", "0"]


def test_a_file_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "LONGEST", ("tests/test_order.py", "tests/test_gone.py"))
    with pytest.raises(pytest.UsageError, match=r"files that are gone: tests/test_gone\.py$"):
        order.in_order([])


def test_files_that_became_long_are_told_once_all_have_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "LONGEST", ("tests/slurm.py",))
    many = {f"file{i}": 1.0 for i in range(order.WHOLE)}
    assert order.become_long(reports(slurm=50, new=9, newer=30, **many)) == [
        "tests/newer.py (30 s)",
        "tests/new.py (9 s)",
    ]
    assert order.become_long(reports(slurm=50, new=2, **many)) == []
    assert (
        order.become_long(reports(slurm=50, newer=30)) == []
    )  # part of the tests says nothing about a share


@pytest.mark.parametrize(("gib", "count"), [(1, 1), (8, 3), (64, 5)])
def test_there_are_more_processes_than_cores_where_memory_allows(
    gib: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=gib * 2**30))
    assert order.workers() == count


def test_processes_that_tests_start_by_the_hundred_do_not_load_pytorch() -> None:
    """Two seconds each, for jobs that only write a file."""
    code = "import sys, tests.launcher.jobs, tests.sweeps.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
