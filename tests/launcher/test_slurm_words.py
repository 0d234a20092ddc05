"""What the Slurm executor makes of Slurm's answers and of its silence; slurmctld is played, the folders are real."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher import folder as files
from launcher import remote, slurm_queue
from launcher.base import AlreadyRunningError, Handle, JobSpec, Kind, State, UnreachableError
from launcher.cluster_settings import SlurmSettings
from launcher.slurm import SlurmExecutor
from launcher.slurm_outage import SlurmGoneError
from launcher.slurm_queue import SlurmUnreachableError

AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
SETTINGS = SlurmSettings(poll_seconds=0.0, settle_seconds=0.0)


class Played:
    """A slurmctld with the states that a test gives its jobs."""

    def __init__(self) -> None:
        self.away = False
        self.jobs: dict[str, str] = {}
        self.comments: dict[str, str] = {}
        self.restarts = 0
        self.submitted = 0
        self.cancelled: list[tuple[str, ...]] = []
        self.lose_answer = False

    def call(self, program: str, *arguments: str) -> str:
        if self.away:
            raise SlurmUnreachableError(f"{program}: {AWAY}")
        if program == "scontrol":
            return f"JobId=1 Restarts={self.restarts} ExitCode=1:0 "
        if program == "scancel":
            self.cancelled.append(arguments)
            return ""
        if "--me" in arguments:
            return "".join(f"{job}|{comment}\n" for job, comment in self.comments.items())
        return "".join(f"{job}|{state}|None\n" for job, state in self.jobs.items())

    def sbatch(self, settings: SlurmSettings, specs: list[JobSpec], token: str) -> str:
        if self.away:
            raise SlurmUnreachableError(f"sbatch: {AWAY}")
        self.submitted += 1
        job = str(self.submitted)
        self.jobs[job], self.comments[job] = "PENDING", f"jdx:{token}"
        if self.lose_answer:
            raise SlurmUnreachableError("sbatch: Socket timed out on send/recv operation")
        return job


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    controller = Played()
    monkeypatch.setattr(slurm_queue, "call", controller.call)
    monkeypatch.setattr("launcher.slurm.sbatch", controller.sbatch)
    monkeypatch.setattr("launcher.slurm._check_installed", lambda: None)
    monkeypatch.setattr("launcher.slurm_outage.LONGEST_PAUSE", 0.0)
    return controller


def spec(folder: Path) -> JobSpec:
    folder.mkdir(exist_ok=True)
    return JobSpec(folder, "tests.launcher.jobs:add", {"a": 1, "b": 2}, gpus=0)


def submitted(tmp_path: Path, settings: SlurmSettings = SETTINGS) -> tuple[SlurmExecutor, Handle]:
    executor = SlurmExecutor(settings)
    return executor, executor.submit(spec(tmp_path / "job"))


def by_sigterm(folder: Path) -> None:
    """What a worker leaves that SIGTERM has ended."""
    error = {"kind": str(Kind.CANCELLED), "message": "CancelledError: SIGTERM", "traceback": ""}
    files.write_result(folder, 0, "failed", error=error)


def by_sigkill(folder: Path) -> None:
    remote.tell_exit(folder, 0, -9, Kind.KILLED, "killed by SIGKILL")


def silent(folder: Path) -> None:
    """Nothing: the node's side has forgotten it for the next start, or never began."""


TRACES = [by_sigterm, by_sigkill, silent]


@pytest.mark.parametrize("trace", TRACES)
def test_what_a_requeued_job_left_is_not_its_end(
    played: Played, tmp_path: Path, trace: Callable[[Path], None]
) -> None:
    executor, handle = submitted(tmp_path)
    trace(tmp_path / "job")
    for word, state in (
        ("COMPLETING", State.RUNNING),
        ("PENDING", State.PENDING),
        ("RUNNING", State.RUNNING),
    ):
        played.jobs["1"] = word
        assert executor.poll([handle])[handle["id"]].state is state


@pytest.mark.parametrize("trace", TRACES)
def test_a_requeued_job_that_slurm_could_not_start_is_preempted(
    played: Played, tmp_path: Path, trace: Callable[[Path], None]
) -> None:
    executor, handle = submitted(tmp_path)
    trace(tmp_path / "job")
    played.jobs["1"], played.restarts = "FAILED", 1
    status = executor.poll([handle])[handle["id"]]
    assert (status.state, status.kind) == (State.PREEMPTED, None)
    assert "could not be started again (failed" in status.reason
    played.jobs["1"] = "PENDING"  # later words change nothing
    assert executor.poll([handle])[handle["id"]] == status
    played.jobs["1"] = "FAILED"
    again = executor.submit(replace(spec(tmp_path / "job"), attempt=1))
    assert executor.poll([again])[again["id"]].state is State.PENDING


@pytest.mark.parametrize(
    ("trace", "kind"),
    [(by_sigterm, Kind.CANCELLED), (by_sigkill, Kind.KILLED), (silent, Kind.CRASHED)],
)
def test_a_job_that_failed_after_its_last_start_is_told_by_its_folder(
    played: Played, tmp_path: Path, trace: Callable[[Path], None], kind: Kind
) -> None:
    executor, handle = submitted(tmp_path)
    trace(tmp_path / "job")
    (tmp_path / "job" / "slurm_start.json").write_text(json.dumps({"attempt": 0, "restarts": 1}))
    played.jobs["1"], played.restarts = "FAILED", 1
    status = executor.poll([handle])[handle["id"]]
    assert (status.state, status.kind) == (State.EXITED, kind)


@pytest.mark.parametrize(
    ("word", "state", "kind"),
    [
        ("CANCELLED", State.EXITED, Kind.CANCELLED),
        ("TIMEOUT", State.EXITED, Kind.TIMEOUT),
        ("OUT_OF_MEMORY", State.EXITED, Kind.OOM),
        ("PREEMPTED", State.PREEMPTED, None),
        ("NODE_FAIL", State.LOST, None),
    ],
)
def test_slurm_knows_why_a_worker_was_killed(
    played: Played, tmp_path: Path, word: str, state: State, kind: Kind | None
) -> None:
    executor, handle = submitted(tmp_path)
    by_sigkill(tmp_path / "job")
    played.jobs["1"] = word
    status = executor.poll([handle])[handle["id"]]
    assert (status.state, status.kind) == (state, kind)


def test_submitting_while_slurm_is_away_may_be_repeated_and_is_said_once(
    played: Played, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = SlurmExecutor(SETTINGS)
    played.away = True
    for _ in range(3):
        with pytest.raises(UnreachableError, match="connect failure"):
            executor.submit(spec(tmp_path / "job"))
    assert "waiting for it, 1440 minutes at most" in caplog.text
    assert len(caplog.records) == 1
    played.away = False
    handle = executor.submit(spec(tmp_path / "job"))
    assert "Slurm answers again" in caplog.records[-1].message
    assert executor.poll([handle])[handle["id"]].state is State.PENDING
    assert played.submitted == 1


def test_a_lost_answer_of_sbatch_starts_nothing_twice(played: Played, tmp_path: Path) -> None:
    executor = SlurmExecutor(SETTINGS)
    played.lose_answer = True
    with pytest.raises(UnreachableError):
        executor.submit(spec(tmp_path / "job"))
    with pytest.raises(AlreadyRunningError, match="Slurm job 1 already"):
        executor.submit(spec(tmp_path / "job"))
    bare: Handle = {"id": spec(tmp_path / "job").id, "folder": str(tmp_path / "job"), "attempt": 0}
    assert executor.adopt(bare)
    assert executor.poll([bare])[bare["id"]].state is State.PENDING
    assert played.submitted == 1


def test_what_ended_before_sbatch_was_tried_again_is_not_done_twice(played: Played, tmp_path: Path) -> None:
    executor = SlurmExecutor(SETTINGS)
    played.lose_answer = True
    with pytest.raises(UnreachableError):
        executor.submit(spec(tmp_path / "job"))
    files.write_result(tmp_path / "job", 0, "done", value={})
    played.jobs.clear()
    played.comments.clear()
    with pytest.raises(AlreadyRunningError, match="answer was lost"):
        executor.submit(spec(tmp_path / "job"))
    bare: Handle = {"id": spec(tmp_path / "job").id, "folder": str(tmp_path / "job"), "attempt": 0}
    assert executor.adopt(bare)
    assert executor.poll([bare])[bare["id"]].code == 0


def test_jobs_are_adopted_while_slurm_is_away_and_lost_ones_found_later(
    played: Played, tmp_path: Path
) -> None:
    _, there = submitted(tmp_path)
    never = spec(tmp_path / "never")
    played.lose_answer = True
    with pytest.raises(UnreachableError):
        SlurmExecutor(SETTINGS).submit(never)
    lost: Handle = {"id": never.id, "folder": str(never.folder), "attempt": 0}
    played.away = True
    second = SlurmExecutor(SETTINGS)
    assert [second.adopt(handle) for handle in (there, lost)] == [True, True]
    statuses = second.poll([there, lost])
    assert {status.state for status in statuses.values()} == {State.PENDING}
    assert all("connect failure" in status.reason for status in statuses.values())
    played.away = False
    played.comments.clear()
    del played.jobs["2"]
    statuses = second.poll([there, lost])
    assert [statuses[handle["id"]].state for handle in (there, lost)] == [State.PENDING, State.LOST]


def test_an_outage_without_end_ends_the_waiting_with_words(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, handle = submitted(tmp_path, replace(SETTINGS, unreachable_minutes=1))
    played.away = True
    clock = itertools.count(0.0, 30.0)
    monkeypatch.setattr("launcher.slurm_outage.time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert "connect failure" in executor.poll([handle])[handle["id"]].reason
    with pytest.raises(SlurmGoneError, match=r"launcher\.unreachable_minutes"):
        executor.poll([handle])


def test_cancelling_waits_for_slurm_but_not_for_a_node_that_does_not_let_go(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("launcher.slurm.LEAVING", 0.2)
    executor, handle = submitted(tmp_path)
    played.jobs["1"] = "RUNNING"
    asked = []
    real = played.call

    def flaky(program: str, *arguments: str) -> str:
        asked.append(program)
        played.away = len(asked) % 3 != 0  # two of three questions find nobody
        if program == "scancel" and not played.away:
            played.jobs["1"] = "COMPLETING"
        return real(program, *arguments)

    monkeypatch.setattr(slurm_queue, "call", flaky)
    with caplog.at_level(logging.WARNING):
        executor.cancel(handle, grace=0.0)
    assert executor.poll([handle])[handle["id"]].kind is Kind.CANCELLED
    assert [words[-1] for words in played.cancelled] == ["1"] * 3
    assert "job 1 is still completing" in caplog.text
