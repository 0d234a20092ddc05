"""SIGTERM to a worker at awkward moments: whatever it interrupts, the job was cancelled, not at fault."""

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


@pytest.mark.parametrize("source", [IMPORTS, WRAPS], ids=["while it imports", "whatever the job makes of it"])
def test_sigterm_is_a_cancellation(tmp_path: Path, source: str) -> None:
    here = tmp_path / "here"
    (tmp_path / "jdx_test_job.py").write_text(source.format(here=here))
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", os.getcwd())])}
    folder = tmp_path / "job"
    folder.mkdir()
    files.write_job(JobSpec(folder, "jdx_test_job:run", gpus=0, env=env))
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
