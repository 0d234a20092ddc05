"""The controller is killed after each visible step; the same command then goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from jdx import ROOT
from launcher.folder import is_held
from tests.sweeps.bench import Bench, states

POINTS = ["x=0,1,2,3"]


def start(root: Path, **settings: Any) -> subprocess.Popen[str]:
    """A controller in a process of its own."""
    command = [sys.executable, "-m", "tests.sweeps.bench", json.dumps({"root": str(root), **settings})]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(what: Any, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def hears(controller: subprocess.Popen[str], words: str) -> None:
    """Wait until it has said this."""
    assert controller.stderr is not None
    assert any(words in line for line in controller.stderr)  # reads up to that line


def starts(root: Path) -> list[str]:
    path = root / "starts.txt"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize(
    "step", ["asked 1", "submitted 1", "started 1", "reported 1", "finished 1", "finished 3"]
)
def test_killed_after_any_step_nothing_is_lost_or_done_twice(tmp_path: Path, step: str) -> None:
    payload = {"styles": [0, 1, 2]}
    settings: dict[str, Any] = {"words": POINTS, "payload": payload, "pruner": "wilcoxon"}
    first = start(tmp_path, dies=step, **settings)
    first.communicate(timeout=240)
    assert first.returncode == -signal.SIGKILL
    controller, done = Bench(tmp_path, **settings).run()
    assert done
    assert states(controller) == dict.fromkeys(range(4), "COMPLETE")
    assert [trial.params["x"] for trial in controller.ledger.trials()] == [0, 1, 2, 3]
    assert sorted(starts(tmp_path)) == [
        "0.0",
        "1.0",
        "2.0",
        "3.0",
    ]  # each started once, by one controller or the other
    assert all(len(trial.intermediate_values) == 3 for trial in controller.ledger.trials())


def test_killed_in_the_middle_of_a_question_the_point_is_completed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, words=["x=0,1", "y=0,1"])
    ledger = bench.ledger()
    ledger.study.ask()  # begun, no value chosen
    half = ledger.study.ask()
    half.suggest_categorical("x", (0, 1))
    controller, done = bench.run()
    assert done
    points = sorted((trial.params["x"], trial.params["y"]) for trial in controller.ledger.trials())
    assert points == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len(bench.starts()) == 4


def test_running_jobs_outlive_their_controller_and_are_adopted(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"words": POINTS, "payload": {"awaits": "go"}, "rules": {"n_jobs": 2}}
    first = start(tmp_path, **settings)
    wait_for(lambda: len(starts(tmp_path)) == 2)
    first.kill()
    first.communicate()
    assert is_held(tmp_path / "jobs" / "0000")  # the worker goes on
    (tmp_path / "go").touch()
    controller, done = Bench(tmp_path, **settings).run()
    assert done
    assert sorted(starts(tmp_path)) == ["0.0", "1.0", "2.0", "3.0"]
    assert set(states(controller).values()) == {"COMPLETE"}


def test_jobs_that_went_down_with_the_machine_are_started_again(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "words": POINTS,
        "payload": {"deeds": {"0.0": "hang"}},
        "rules": {"retries": 0},
    }
    first = start(tmp_path, **settings)
    wait_for(lambda: "0.0" in starts(tmp_path) and (tmp_path / "jobs" / "0000" / "handle.json").exists())
    first.kill()
    first.communicate()
    worker = json.loads((tmp_path / "jobs" / "0000" / "lease").read_text())["pid"]
    psutil.Process(worker).kill()
    wait_for(lambda: not is_held(tmp_path / "jobs" / "0000"))
    controller, _ = Bench(tmp_path, **settings).run()
    assert states(controller) == dict.fromkeys(range(4), "COMPLETE")  # not counted against the trial
    assert starts(tmp_path).count("0.1") == 1


def test_ctrl_c_once_finishes_what_runs_and_the_rest_comes_later(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"words": POINTS, "payload": {"awaits": "go"}, "rules": {"n_jobs": 2}}
    first = start(tmp_path, **settings)
    wait_for(lambda: len(starts(tmp_path)) == 2)
    first.send_signal(signal.SIGINT)
    hears(first, "once more")
    (tmp_path / "go").touch()
    out, _ = first.communicate(timeout=240)
    said = json.loads(out)
    assert first.returncode == 0
    assert said["done"] is False
    assert any("once more" in line for line in said["said"])
    assert len(starts(tmp_path)) == 2
    controller, done = Bench(tmp_path, **settings).run()
    assert done
    assert sorted(starts(tmp_path)) == ["0.0", "1.0", "2.0", "3.0"]
    assert set(states(controller).values()) == {"COMPLETE"}


def test_ctrl_c_twice_ends_everything_now_and_costs_no_attempt(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "words": ["x=0,1"],
        "payload": {"deeds": {"0.0": "hang"}},
        "rules": {"retries": 0},
    }
    first = start(tmp_path, **settings)
    wait_for(lambda: "0.0" in starts(tmp_path))
    first.send_signal(signal.SIGINT)
    hears(first, "once more")  # two signals at once may come as one
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=240)
    wait_for(lambda: not is_held(tmp_path / "jobs" / "0000"))
    controller, done = Bench(tmp_path, **settings).run()
    assert done
    assert states(controller) == {0: "COMPLETE", 1: "COMPLETE"}
    assert starts(tmp_path).count("0.1") == 1
