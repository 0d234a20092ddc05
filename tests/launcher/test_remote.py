"""What the node's side leaves in a folder, and signs of life without locks."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher import folder as files
from launcher import remote
from launcher.base import JobSpec, Kind, State


def write(folder: Path, attempt: int = 0) -> None:
    files.write_job(JobSpec(folder, "tests.launcher.jobs:add", {"a": 1, "b": 2}, attempt=attempt, gpus=0))


def test_a_worker_runs_and_its_exit_is_told_only_without_a_result(tmp_path: Path) -> None:
    write(tmp_path)
    assert remote.run_worker(tmp_path, 0, remote.start_worker(tmp_path, 0)) == 0
    assert not (tmp_path / remote.EXIT).exists()
    status = remote.told(tmp_path, 0)
    assert status is not None
    assert (status.state, status.code) == (State.EXITED, 0)
    assert remote.told(tmp_path, 1) is None
    # The same attempt again is refused by the worker: it has its result.
    assert remote.run_worker(tmp_path, 0, remote.start_worker(tmp_path, 0)) == 75


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGKILL, Kind.KILLED), (signal.SIGSEGV, Kind.CRASHED)])
def test_the_end_of_a_worker_that_cannot_tell_it(tmp_path: Path, number: signal.Signals, kind: Kind) -> None:
    write(tmp_path)
    worker = remote.RemoteWorker([sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})"])
    assert remote.run_worker(tmp_path, 0, worker) == -number
    status = remote.told(tmp_path, 0)
    assert status is not None
    assert (status.state, status.code, status.kind) == (State.EXITED, -number, kind)
    assert remote.told(tmp_path, 1) is None
    remote.forget_exit(tmp_path)
    assert remote.told(tmp_path, 0) is None


def test_who_ended_it_may_keep_the_folder_silent(tmp_path: Path) -> None:
    write(tmp_path)
    worker = remote.RemoteWorker([sys.executable, "-c", "raise SystemExit(3)"])
    assert remote.run_worker(tmp_path, 0, worker, tell=lambda: False) == 3
    assert remote.told(tmp_path, 0) is None


def test_a_job_waits_for_a_predecessor_whose_heart_still_beats_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    (tmp_path / files.LEASE).write_text(json.dumps({"attempt": 0, "host": "another-node", "pid": 1}))
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] < 5.0:
            (tmp_path / files.HEARTBEAT).touch()
        else:
            silent = time.time() - 2 * remote.STALE
            os.utime(tmp_path / files.HEARTBEAT, (silent, silent))

    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    remote.wait_for_predecessor(tmp_path, 0)  # no heartbeat yet
    assert clock == [0.0]
    (tmp_path / files.HEARTBEAT).touch()
    assert remote.beats(tmp_path)
    remote.wait_for_predecessor(tmp_path, 0, patience=1.5)
    assert clock == [2.0]
    remote.wait_for_predecessor(tmp_path, 0)
    assert not remote.beats(tmp_path)
    assert clock == [5.0]
