"""SIGTERM to a worker at awkward moments, and the end of its time: whatever they interrupt, the job is not at fault."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from launcher import folder as files
from launcher import remote
from launcher.base import JobSpec, Kind

IMPORTS = """
import time
open("{here}", "w").close()
time.sleep(60)
"""
WRAPS = """
import time
def run(folder, payload, channel):
    try:
        open("{here}", "w").close()
        time.sleep(60)
    except BaseException as error:
        raise RuntimeError("a child of mine was killed by signal: Terminated") from None
"""
FOLLOWS = """
import subprocess, sys
def run(folder, payload, channel):
    children = [subprocess.Popen(["sleep", "120"]) for _ in range(2)]
    raise RuntimeError(f"the child ended with {children[0].wait()}")
"""


def job(folder: Path, source: str, timeout: float | None = None) -> Path:
    """A job's folder with its function's module."""
    (folder / "jdx_test_job.py").write_text(source)
    env = {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", os.getcwd())])}
    (folder / "job").mkdir()
    files.write_job(JobSpec(folder / "job", "jdx_test_job:run", gpus=0, env=env, timeout=timeout))
    return folder / "job"


def test_a_job_that_fails_since_its_children_are_ended_ran_too_long(tmp_path: Path) -> None:
    folder = job(tmp_path, FOLLOWS, timeout=2.0)
    remote.run_worker(folder, 0, remote.start_worker(folder, 0))
    status = remote.told(folder, 0)
    assert status is not None
    assert status.kind is Kind.TIMEOUT, status


@pytest.mark.parametrize("source", [IMPORTS, WRAPS], ids=["while it imports", "whatever the job makes of it"])
def test_sigterm_is_a_cancellation(tmp_path: Path, source: str) -> None:
    here = tmp_path / "here"
    folder = job(tmp_path, source.format(here=here))
    worker = remote.start_worker(folder, 0)
    deadline = time.monotonic() + 60
    while not here.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    worker.send_signal(signal.SIGTERM)
    remote.run_worker(folder, 0, worker)
    status = remote.told(folder, 0)
    assert status is not None
    assert status.kind is Kind.CANCELLED
