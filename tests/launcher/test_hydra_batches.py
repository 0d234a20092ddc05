"""Hydra's launchers behind the contract: the kit on `basic`, which runs a batch one after the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from jdx import ROOT
from launcher.base import Executor, Kind, State
from launcher.factory import build
from launcher.folder import Lease, ask_to_stop
from launcher.hydra_batches import BATCH, HydraBatches, HydraSettings
from launcher.processes import born
from launcher.settings import JobSettings
from tests.launcher.kit import CONTROLLER, ENDLESS, ExecutorKit


def make(root: Path, slots: int) -> Executor:
    """Batches of one: the kit submits more than that and wants them side by side only where it says so."""
    return HydraBatches(HydraSettings(batch_size=max(slots, 1)))


def parallel(root: Path, slots: int) -> Executor:
    """By joblib, where it is installed."""
    return HydraBatches(
        HydraSettings(launcher="joblib", batch_size=slots, overrides=[f"hydra.launcher.n_jobs={slots}"])
    )


class TestBasicLauncher(ExecutorKit):
    factory = "tests.launcher.test_hydra_batches:make"
    many = 12

    def test_capacity_is_told_and_respected(self, make: Callable[[int], Executor], tmp_path: Path) -> None:
        executor = make(2)
        assert executor.capacity() == 2
        handles = [
            executor.submit(self.spec(tmp_path / str(n), "styles", count=ENDLESS, pause=0.05))
            for n in range(3)
        ]
        assert executor.capacity() == 0
        self.running(executor, handles[0])
        states = [executor.poll(handles)[handle["id"]].state for handle in handles]
        assert states == [State.RUNNING, State.PENDING, State.PENDING]
        for n in range(3):
            ask_to_stop(tmp_path / str(n))
        self.until(executor, handles, lambda s: all(status.over for status in s.values()))
        self.until(executor, handles, lambda s: executor.capacity() == 2)

    def test_a_killed_worker_is_seen_and_its_neighbour_goes_on(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        executor = make(2)
        victim = executor.submit(self.spec(tmp_path / "victim", "stubborn"))
        neighbour = executor.submit(self.spec(tmp_path / "neighbour", "add", a=1, b=2))
        pid = self.running(executor, victim)
        self.until(executor, [victim], lambda s: len(list((tmp_path / "victim").glob("child.*"))) == 2)
        os.kill(pid, signal.SIGKILL)
        status = self.end(executor, victim)
        assert (status.code, status.kind) == (-signal.SIGKILL, Kind.KILLED)
        self.gone(tmp_path / "victim")
        assert self.end(executor, neighbour).code == 0

    def test_a_second_executor_adopts_what_runs_and_what_ended(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        first = make(2)
        ended = first.submit(self.spec(tmp_path / "ended", "add", a=1, b=2))
        goes_on = first.submit(self.spec(tmp_path / "runs", "styles", count=ENDLESS, pause=0.05))
        self.end(first, ended)
        first.close(kill=False)
        second = make(2)
        never = {**goes_on, "folder": str(tmp_path / "never"), "id": f"{tmp_path / 'never'}#0"}
        assert [second.adopt(handle) for handle in (goes_on, ended, never)] == [True, True, False]
        assert self.end(second, ended).code == 0
        ask_to_stop(tmp_path / "runs")
        assert self.end(second, goes_on).code == 0
        assert len((tmp_path / "runs" / "starts").read_text().split()) == 1

    def test_jobs_outlive_a_killed_controller(self, make: Callable[[int], Executor], tmp_path: Path) -> None:
        (tmp_path / "job").mkdir()
        job = {"folder": str(tmp_path / "job"), "target": "tests.launcher.jobs:styles", "gpus": 0}
        words = json.dumps(
            [
                str(tmp_path),
                self.factory,
                1,
                [job | {"payload": {"count": ENDLESS, "pause": 0.05}, "name": "job"}],
            ]
        )
        command = [sys.executable, "-c", CONTROLLER, words]
        with subprocess.Popen(command, stdout=-1, text=True, start_new_session=True) as controller:
            assert controller.stdout is not None
            (handle,) = json.loads(controller.stdout.readline())
            deadline = time.monotonic() + self.patience
            while not (tmp_path / "job" / "starts").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.killpg(controller.pid, signal.SIGKILL)
        executor = make(1)
        assert executor.adopt(handle)
        ask_to_stop(tmp_path / "job")
        assert self.end(executor, handle).code == 0
        assert len((tmp_path / "job" / "starts").read_text().split()) == 1


def test_after_a_restart_the_next_batch_waits_for_the_adopted_one(tmp_path: Path) -> None:
    kit = TestBasicLauncher()
    first, second = HydraBatches(HydraSettings(batch_size=2)), HydraBatches(HydraSettings(batch_size=2))
    try:
        ours = [
            first.submit(kit.spec(tmp_path / str(n), "styles", count=ENDLESS, pause=0.05)) for n in range(2)
        ]
        kit.running(first, ours[0])
        first.close(kill=False)
        assert all(second.adopt(handle) for handle in ours)
        assert second.capacity() == 0
        late = second.submit(kit.spec(tmp_path / "late", "add", a=1, b=2))
        for number in range(2):  # one after the other, as the basic launcher runs them
            kit.running(second, ours[number])
            assert second.poll([late])[late["id"]].state is State.PENDING
            assert not (tmp_path / "late" / BATCH).exists()
            ask_to_stop(tmp_path / str(number))
            assert kit.end(second, ours[number]).code == 0
        assert kit.end(second, late).code == 0
    finally:
        second.close(kill=True)


def test_an_adopted_batch_can_be_killed(tmp_path: Path) -> None:
    kit = TestBasicLauncher()
    first, second = HydraBatches(HydraSettings(batch_size=2)), HydraBatches(HydraSettings(batch_size=2))
    handles = [first.submit(kit.spec(tmp_path / str(n), "stubborn")) for n in range(2)]
    kit.running(first, handles[0])
    first.close(kill=False)
    assert all(second.adopt(handle) for handle in handles)
    second.close(kill=True)
    kit.gone(tmp_path / "0")
    statuses = second.poll(handles)
    assert {status.kind for status in statuses.values()} == {Kind.CANCELLED}
    assert not (tmp_path / "1" / "starts").exists()


def test_a_worker_that_comes_up_while_its_job_is_cancelled_is_asked_to_end(tmp_path: Path) -> None:
    """It has taken the lease and has not written its name into it yet."""
    executor = HydraBatches()
    handle = executor.submit(TestBasicLauncher().spec(tmp_path / "job", "add", a=1, b=2))
    lease = Lease.take(tmp_path / "job")
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])

    def come_up() -> None:
        lease.write(attempt=0, pid=worker.pid, born=born(worker.pid))
        worker.wait()
        lease.close()

    threading.Timer(0.3, come_up).start()
    executor.cancel(handle, grace=5.0)
    assert worker.wait() == -signal.SIGTERM
    assert executor.poll([handle])[handle["id"]].over


@pytest.mark.skipif(
    find_spec("hydra_plugins.hydra_joblib_launcher") is None,
    reason="hydra-joblib-launcher is not installed (pip install 'jdx[dev]')",
)
class TestJoblibLauncher(ExecutorKit):
    factory = "tests.launcher.test_hydra_batches:parallel"
    many = 12

    def test_capacity_is_told_and_respected(self, make: Callable[[int], Executor], tmp_path: Path) -> None:
        executor = make(2)
        handles = [executor.submit(self.spec(tmp_path / str(n), "sleep")) for n in range(3)]
        for handle in handles[:2]:
            self.running(executor, handle)
        assert executor.capacity() == 0
        assert executor.poll(handles)[handles[2]["id"]].state is State.PENDING, "until the batch has ended"
        executor.cancel_all(handles[:2], grace=1.0)
        self.running(executor, handles[2])


def test_the_yaml_is_the_records_defaults() -> None:
    content = yaml.safe_load((ROOT / "conf" / "launcher" / "hydra.yaml").read_text())
    assert content == {"name": "hydra", **asdict(JobSettings()), **asdict(HydraSettings())}
    assert build(content).own == HydraSettings()


def test_a_launcher_that_is_not_there_is_told(tmp_path: Path) -> None:
    executor = HydraBatches(HydraSettings(launcher="no_such"))
    kit = TestBasicLauncher()
    handle = executor.submit(kit.spec(tmp_path / "job", "add", a=1, b=2))
    status = kit.end(executor, handle)
    assert status.state is State.LOST
    assert "no_such" in Path(status.reason.rpartition(" ")[2]).read_text()
