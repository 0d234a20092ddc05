"""The contract test of executors: subclass `ExecutorKit`, name a factory, and every promise of the contract is tried.

    class TestMine(ExecutorKit):
        factory = "tests.launcher.test_mine:make"       # make(root: Path, slots: int) -> Executor

The factory is also called in other processes, since an executor has to take over from one that died.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from launcher.base import AlreadyRunningError, Executor, Handle, JobSpec, Kind, State, Status
from launcher.folder import ask_to_stop, is_held, read_events, read_lease, read_result

Factory = Callable[[Path, int], Executor]

CONTROLLER = """
import importlib, json, sys, time
from pathlib import Path
from launcher.base import JobSpec
root, target, slots, jobs = json.loads(sys.argv[1])
module, _, name = target.partition(":")
executor = getattr(importlib.import_module(module), name)(Path(root), slots)
handles = [executor.submit(JobSpec(**{**job, "folder": Path(job["folder"])})) for job in jobs]
print(json.dumps(handles), flush=True)
while True:
    executor.poll(handles)
    time.sleep(0.1)
"""


ENDLESS = 100_000
"""Pieces of work of a job that is asked to stop: too many to come to its end before, on any machine."""


class ExecutorKit:
    """Every executor passes this."""

    factory: ClassVar[str]
    """`module:function`, called as `function(root, slots)`."""
    gpus: ClassVar[float] = 0.0
    """What each job asks for."""
    patience: ClassVar[float] = 400.0
    """Seconds within which anything that must happen has happened."""
    many: ClassVar[int] = 100
    """Jobs of the test that counts them."""
    sees_kill: ClassVar[bool] = True
    """Whether a worker's death by a signal is told as such; a scheduler may only know that the job is lost."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Callable[[int], Executor]]:
        """Make executors that share one root; what they leave running is ended."""
        module, _, name = self.factory.partition(":")
        factory: Factory = getattr(importlib.import_module(module), name)
        root = tmp_path / "executor"
        root.mkdir()
        made: list[Executor] = []

        def make(slots: int) -> Executor:
            made.append(factory(root, slots))
            return made[-1]

        yield make
        for executor in made:
            executor.close(kill=True)

    def spec(self, folder: Path, job: str, *, attempt: int = 0, **settings: Any) -> JobSpec:
        """A job of tests/launcher/jobs.py; settings of the spec pass, the others are its payload."""
        folder.mkdir(parents=True, exist_ok=True)
        known = {name: settings.pop(name) for name in ("timeout", "env", "cpus") if name in settings}
        target = job if ":" in job else f"tests.launcher.jobs:{job}"
        return JobSpec(folder, target, settings, attempt=attempt, gpus=self.gpus, name=folder.name, **known)

    def until(
        self, executor: Executor, handles: list[Handle], done: Callable[[Mapping[str, Status]], bool]
    ) -> dict[str, Status]:
        """Poll until `done(statuses)`."""
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            statuses = executor.poll(handles)
            if done(statuses):
                return statuses
            executor.wait(0.2)
        logs = [path.read_text()[-2000:] for h in handles for path in Path(h["folder"]).glob("log*.txt")]
        pytest.fail(f"after {self.patience} s: {statuses}\n" + "\n".join(logs))

    def end(self, executor: Executor, handle: Handle) -> Status:
        """Wait for the end of one job."""
        return self.until(executor, [handle], lambda s: s[handle["id"]].over)[handle["id"]]

    def running(self, executor: Executor, handle: Handle, file: str = "starts") -> int:
        """Wait until a job has written a file of its own; returns the worker's pid."""
        folder = Path(handle["folder"])
        done = self.until(executor, [handle], lambda s: (folder / file).exists() or s[handle["id"]].over)
        assert (folder / file).exists(), done
        return int(read_lease(folder)["pid"])

    # -- the ordinary way -------------------------------------------------------------------------------------------

    def test_a_job_runs_and_its_result_is_read(self, make: Callable[[int], Executor], tmp_path: Path) -> None:
        executor = make(1)
        handle = executor.submit(self.spec(tmp_path / "job", "add", a=1, b=2))
        handle = json.loads(json.dumps(handle))
        status = self.end(executor, handle)
        assert (status.state, status.code, status.kind) == (State.EXITED, 0, None)
        result = read_result(tmp_path / "job", 0)
        assert result is not None
        assert result["state"] == "done"
        assert result["value"]["sum"] == 3
        assert result["seconds"] >= 0
        self.free(tmp_path / "job")
        assert status.started is not None
        assert abs(status.started - time.time()) < self.patience

    def test_a_job_runs_in_a_session_of_its_own_with_its_environment(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        executor = make(1)
        env = {"JDX_TEST_WORD": "a b=c"}
        names = ["JDX_TEST_WORD", "PATH"]
        handle = executor.submit(self.spec(tmp_path / "job", "environment", names=names, env=env))
        assert self.end(executor, handle).code == 0
        value = (read_result(tmp_path / "job") or {})["value"]
        assert value["env"]["JDX_TEST_WORD"] == "a b=c"
        assert value["env"]["PATH"]
        assert value["sid"] != os.getsid(0)
        assert value["cwd"] == os.getcwd()
        again = executor.submit(
            self.spec(tmp_path / "two", "environment", names=["JDX_TEST_WORD", "JDX_TEST_LEFT_BEHIND"])
        )
        assert self.end(executor, again).code == 0
        seen = (read_result(tmp_path / "two") or {})["value"]["env"]
        assert seen == {"JDX_TEST_WORD": None, "JDX_TEST_LEFT_BEHIND": None}

    def test_each_job_and_each_attempt_has_its_log(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        executor = make(2)
        handles = [executor.submit(self.spec(tmp_path / str(n), "add", a=n, b=100)) for n in range(3)]
        for handle in handles:
            self.end(executor, handle)
        assert all(f"adding {n} 100" in (tmp_path / str(n) / "log.txt").read_text() for n in range(3))
        self.end(executor, executor.submit(self.spec(tmp_path / "0", "add", attempt=1, a=7, b=7)))
        assert "adding 7 7" in (tmp_path / "0" / "log.txt").read_text()
        assert "adding 0 100" in (tmp_path / "0" / "log.0.txt").read_text()
        assert (read_result(tmp_path / "0", 1) or {})["value"]["sum"] == 14
        assert json.loads((tmp_path / "0" / "result.0.json").read_text())["value"]["sum"] == 100

    def test_a_job_asked_to_stop_ends_with_what_it_has(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        executor = make(1)
        handle = executor.submit(self.spec(tmp_path / "job", "styles", count=ENDLESS, pause=0.05))
        self.running(executor, handle, "events.jsonl")
        ask_to_stop(tmp_path / "job")
        assert self.end(executor, handle).code == 0
        result = read_result(tmp_path / "job") or {}
        assert result["state"] == "stopped"
        assert 0 < result["value"]["styles"] < ENDLESS

    def test_capacity_is_told_and_respected(self, make: Callable[[int], Executor], tmp_path: Path) -> None:
        executor = make(2)
        like = self.spec(tmp_path / "like", "sleep")
        assert executor.capacity(like) == 2
        handles = [executor.submit(self.spec(tmp_path / str(n), "sleep")) for n in range(3)]
        for handle in handles[:2]:
            self.running(executor, handle)
        assert executor.capacity(like) == 0
        states = [executor.poll(handles)[handle["id"]].state for handle in handles]
        assert states == [State.RUNNING, State.RUNNING, State.PENDING]
        executor.cancel(handles[0], grace=1.0)
        self.running(executor, handles[2])
        executor.cancel_all(handles, grace=1.0)
        self.until(executor, handles, lambda s: executor.capacity(like) == 2)

    def test_many_quick_jobs_run_exactly_once(self, make: Callable[[int], Executor], tmp_path: Path) -> None:
        executor = make(4)
        specs = [self.spec(tmp_path / f"{n:03d}", "add", a=n, b=1) for n in range(self.many)]
        handles = executor.submit_many(specs)
        assert len({handle["id"] for handle in handles}) == self.many
        statuses = self.until(executor, handles, lambda s: all(status.over for status in s.values()))
        assert {status.code for status in statuses.values()} == {0}
        for n in range(self.many):
            assert len((tmp_path / f"{n:03d}" / "starts").read_text().split()) == 1
            assert (read_result(tmp_path / f"{n:03d}", 0) or {})["value"]["sum"] == n + 1

    # -- failures ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("error", "kind"),
        [("ValueError", Kind.RAISED), ("MemoryError", Kind.OOM), ("SystemExit", Kind.RAISED)],
    )
    def test_a_raising_job_is_told_with_its_kind_and_traceback(
        self, make: Callable[[int], Executor], tmp_path: Path, error: str, kind: Kind
    ) -> None:
        executor = make(1)
        bad = executor.submit(self.spec(tmp_path / "bad", "fail", error=error, text="the reason"))
        good = executor.submit(self.spec(tmp_path / "good", "add", a=1, b=2))
        status = self.end(executor, bad)
        assert (status.state, status.code, status.kind) == (State.EXITED, 1, kind)
        assert "the reason" in status.reason
        told = (read_result(tmp_path / "bad") or {})["error"]
        assert told["kind"] == kind
        assert "jobs.py" in told["traceback"]
        assert "the reason" in (tmp_path / "bad" / "log.txt").read_text()
        assert self.end(executor, good).code == 0

    def test_a_target_that_is_not_there_is_told(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        executor = make(1)
        handle = executor.submit(self.spec(tmp_path / "job", "tests.launcher.jobs:no_such"))
        status = self.end(executor, handle)
        assert (status.code, status.kind) == (1, Kind.TARGET)
        assert "no_such" in status.reason

    def test_what_json_cannot_say_is_refused(self, make: Callable[[int], Executor], tmp_path: Path) -> None:
        executor = make(1)
        with pytest.raises(ValueError, match="payload"):
            executor.submit(self.spec(tmp_path / "one", "add", a=object()))
        handle = executor.submit(self.spec(tmp_path / "two", "unserialisable"))
        assert self.end(executor, handle).kind is Kind.RAISED

    def test_a_killed_worker_is_seen_and_its_neighbour_goes_on(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        executor = make(2)
        victim = executor.submit(self.spec(tmp_path / "victim", "stubborn"))
        neighbour = executor.submit(self.spec(tmp_path / "neighbour", "styles", count=40, pause=0.05))
        pid = self.running(executor, victim)
        self.until(executor, [victim], lambda s: len(list((tmp_path / "victim").glob("child.*"))) == 2)
        os.kill(pid, signal.SIGKILL)
        status = self.end(executor, victim)
        assert status.state in {State.EXITED, State.LOST, State.PREEMPTED}
        if self.sees_kill:
            assert status.code == -signal.SIGKILL
            assert status.kind is Kind.KILLED
        self.gone(tmp_path / "victim")
        assert self.end(executor, neighbour).code == 0

    @pytest.mark.parametrize(
        ("job", "payload"), [("leave", {"code": 3}), ("die", {"signal": signal.SIGSEGV})]
    )
    def test_a_worker_that_ends_without_a_result_is_told(
        self, make: Callable[[int], Executor], tmp_path: Path, job: str, payload: dict[str, Any]
    ) -> None:
        executor = make(1)
        status = self.end(executor, executor.submit(self.spec(tmp_path / "job", job, **payload)))
        assert status.state in {State.EXITED, State.LOST}
        assert status.code != 0
        assert status.reason
        if self.sees_kill:
            assert status.kind is Kind.CRASHED

    def test_events_survive_a_kill_and_the_next_attempt_goes_on(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        executor = make(1)
        first = executor.submit(self.spec(tmp_path / "job", "styles", count=5, die_at=3))
        assert self.end(executor, first).code != 0
        assert [event["style"] for event in read_events(tmp_path / "job")[0]] == [0, 1, 2]
        with (tmp_path / "job" / "events.jsonl").open("a") as file:
            file.write('{"style": 3, "sco')  # what a kill in the middle of a write leaves
        second = executor.submit(self.spec(tmp_path / "job", "styles", attempt=1, count=5, die_at=3))
        assert self.end(executor, second).code == 0
        events = read_events(tmp_path / "job")[0]
        assert [(event["style"], event["attempt"]) for event in events] == [
            (0, 0), (1, 0), (2, 0), (3, 1), (4, 1),
        ]  # fmt: skip

    def test_a_job_over_its_time_is_ended(self, make: Callable[[int], Executor], tmp_path: Path) -> None:
        executor = make(1)
        handle = executor.submit(self.spec(tmp_path / "job", "stubborn", timeout=1.0))
        status = self.end(executor, handle)
        assert status.kind is Kind.TIMEOUT
        self.gone(tmp_path / "job")

    # -- cancelling -------------------------------------------------------------------------------------------------

    def gone(self, folder: Path) -> None:
        """No process that the job of this folder started is left."""
        pids = [int(path.suffix[1:]) for path in folder.glob("child.*")]
        deadline = time.monotonic() + self.patience
        while any(runs(pid) for pid in pids):
            assert time.monotonic() < deadline, f"still there: {pids}"
            time.sleep(0.05)
        self.free(folder)

    def free(self, folder: Path) -> None:
        """Nobody holds the folder's lease."""
        wait_until_free(folder, self.patience)

    def test_cancel_ends_the_whole_tree_of_a_job_that_ignores_it(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        executor = make(1)
        folder = tmp_path / "job"
        handle = executor.submit(self.spec(folder, "stubborn"))
        pid = self.running(executor, handle)
        self.until(executor, [handle], lambda s: len(list(folder.glob("child.*"))) == 2)
        executor.cancel(handle, grace=0.3)
        status = self.end(executor, handle)
        assert status.kind is Kind.CANCELLED
        assert not runs(pid)
        self.gone(folder)

    def test_cancel_leaves_time_to_tidy_up(self, make: Callable[[int], Executor], tmp_path: Path) -> None:
        executor = make(1)
        handle = executor.submit(self.spec(tmp_path / "job", "tidy"))
        self.running(executor, handle)
        executor.cancel(handle, grace=20.0)
        assert self.end(executor, handle).kind is Kind.CANCELLED
        assert (tmp_path / "job" / "tidied").exists()

    def test_cancel_of_a_waiting_and_of_an_ended_job(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        executor = make(1)
        first = executor.submit(self.spec(tmp_path / "first", "sleep"))
        waiting = executor.submit(self.spec(tmp_path / "waiting", "add", a=1, b=1))
        self.running(executor, first)
        executor.cancel(waiting, grace=1.0)
        assert self.end(executor, waiting).kind is Kind.CANCELLED
        executor.cancel(first, grace=5.0)
        self.end(executor, first)
        executor.cancel(first)
        third = executor.submit(self.spec(tmp_path / "third", "add", a=1, b=1))
        assert self.end(executor, third).code == 0
        executor.cancel(third)
        assert executor.poll([third])[third["id"]].code == 0
        assert not (tmp_path / "waiting" / "starts").exists()

    def test_processes_that_a_job_leaves_running_are_ended(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        executor = make(1)
        handle = executor.submit(self.spec(tmp_path / "job", "leave_children"))
        assert self.end(executor, handle).code == 0
        self.gone(tmp_path / "job")

    # -- controllers come and go ------------------------------------------------------------------------------------

    def test_a_folder_is_never_run_twice_at_once(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        one, two = make(2), make(2)
        handle = one.submit(self.spec(tmp_path / "job", "sleep"))
        self.running(one, handle)
        with pytest.raises(AlreadyRunningError, match="job"):
            two.submit(self.spec(tmp_path / "job", "sleep", attempt=1))
        run = [sys.executable, "-m", "launcher.worker", str(tmp_path / "job")]
        assert subprocess.run(run, capture_output=True, check=False).returncode == 75
        assert len((tmp_path / "job" / "starts").read_text().split()) == 1
        one.cancel(handle, grace=5.0)

    def test_a_second_executor_adopts_what_runs_and_what_ended(
        self, make: Callable[[int], Executor], tmp_path: Path
    ) -> None:
        first = make(2)
        goes_on = first.submit(self.spec(tmp_path / "runs", "styles", count=ENDLESS, pause=0.05))
        ended = first.submit(self.spec(tmp_path / "ended", "add", a=1, b=2))
        self.running(first, goes_on)
        self.end(first, ended)
        first.close(kill=False)
        second = make(2)
        never = {**goes_on, "folder": str(tmp_path / "never"), "id": f"{tmp_path / 'never'}#0", "job": "0"}
        assert [second.adopt(handle) for handle in (goes_on, ended, never)] == [True, True, False]
        assert second.poll([goes_on])[goes_on["id"]].state is State.RUNNING
        assert self.end(second, ended).code == 0
        ask_to_stop(tmp_path / "runs")
        assert self.end(second, goes_on).code == 0
        assert len((tmp_path / "runs" / "starts").read_text().split()) == 1

    def test_jobs_outlive_a_killed_controller(self, make: Callable[[int], Executor], tmp_path: Path) -> None:
        job = {"folder": str(tmp_path / "job"), "target": "tests.launcher.jobs:styles", "gpus": self.gpus}
        jobs: list[dict[str, Any]] = [job | {"payload": {"count": ENDLESS, "pause": 0.05}, "name": "job"}]
        stop = {"folder": str(tmp_path / "stop"), "target": "tests.launcher.jobs:stubborn", "gpus": self.gpus}
        jobs.append(stop | {"payload": {}, "name": "stop"})
        for one in jobs:
            Path(one["folder"]).mkdir()
        words = json.dumps([str(tmp_path / "executor"), self.factory, 2, jobs])
        with subprocess.Popen(
            [sys.executable, "-c", CONTROLLER, words],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as controller:
            assert controller.stdout is not None
            handles: list[Handle] = json.loads(controller.stdout.readline())
            deadline = time.monotonic() + self.patience
            while not all((Path(one["folder"]) / "starts").exists() for one in jobs):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.killpg(controller.pid, signal.SIGKILL)
        executor = make(2)
        assert all(executor.adopt(handle) for handle in handles)
        executor.cancel(handles[1], grace=0.3)
        assert self.end(executor, handles[1]).kind is Kind.CANCELLED
        self.gone(tmp_path / "stop")
        ask_to_stop(tmp_path / "job")
        assert self.end(executor, handles[0]).code == 0
        assert len((tmp_path / "job" / "starts").read_text().split()) == 1

    def test_close_with_kill_leaves_nothing(self, make: Callable[[int], Executor], tmp_path: Path) -> None:
        executor = make(1)
        handle = executor.submit(self.spec(tmp_path / "job", "stubborn"))
        pid = self.running(executor, handle)
        self.until(executor, [handle], lambda s: len(list((tmp_path / "job").glob("child.*"))) == 2)
        executor.close(kill=True)
        self.gone(tmp_path / "job")
        assert not runs(pid)


def wait_until_free(folder: Path, patience: float = ExecutorKit.patience) -> None:
    """Until nobody holds a folder's lease: who tells how a job ended, or looks, holds it for a moment."""
    deadline = time.monotonic() + patience
    while is_held(folder):
        assert time.monotonic() < deadline, f"still held: {read_lease(folder)}"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether there is a process of that number; one that only waits to be collected is none."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
