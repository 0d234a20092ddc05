"""Jobs through a real slurmctld and slurmd: the contract, and what happens to jobs in a shared cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.base import (
    AlreadyRunningError,
    Handle,
    JobSpec,
    Kind,
    RefusedError,
    State,
    Status,
    UnreachableError,
)
from launcher.cluster_settings import SlurmSettings
from launcher.folder import ask_to_stop, read_events, read_result
from launcher.slurm import SlurmExecutor
from tests.launcher.kit import ENDLESS, ExecutorKit, wait_until_free
from tests.servers.slurm import SlurmServer

QUICK = SlurmSettings(time_min=5, signal_seconds=5, grace_seconds=1.0, poll_seconds=0.1, settle_seconds=1.0)


def make(root: Path, slots: int) -> SlurmExecutor:
    """Executor whose jobs are so wide that the test cluster, two nodes of four CPUs, has room for `slots` of them."""
    options = {"cpus-per-task": 2 if slots == 4 else 4, **({"exclude": "jdx2"} if slots == 1 else {})}
    return SlurmExecutor(replace(QUICK, max_jobs=slots, options=options, logs=str(root)))


@pytest.mark.usefixtures("slurm")
class TestSlurm(ExecutorKit):
    factory = "tests.launcher.test_slurm:make"
    many = 24


def job(
    folder: Path, name: str, *, gpus: float = 0.0, timeout: float | None = None, **payload: Any
) -> JobSpec:
    """A job of tests/launcher/jobs.py."""
    folder.mkdir(exist_ok=True)
    return JobSpec(
        folder, f"tests.launcher.jobs:{name}", payload, gpus=gpus, timeout=timeout, name=folder.name
    )


def until(
    executor: SlurmExecutor,
    handle: Handle,
    done: Callable[[Status], bool],
    limit: float = ExecutorKit.patience,
) -> Status:
    """Poll until the job's status is as wanted."""
    deadline = time.monotonic() + limit
    while not done(status := executor.poll([handle])[handle["id"]]):
        assert time.monotonic() < deadline, f"{status}\n{logs(handle)}"
        time.sleep(0.1)
    return status


def logs(handle: Handle) -> str:
    """Slurm's and submitit's own words on a job."""
    folder = Path(handle["folder"])
    return "\n".join(path.read_text() for path in (*folder.parent.glob("*_log.*"), *folder.glob("log*.txt")))


def starts(folder: Path) -> int:
    """How often the job has been started."""
    path = folder / "starts"
    return len(path.read_text().split()) if path.exists() else 0


def wait_for_start(executor: SlurmExecutor, handle: Handle, count: int = 1) -> None:
    until(executor, handle, lambda _: starts(Path(handle["folder"])) >= count)


def styles_in(folder: Path) -> list[int]:
    return [event["style"] for event in read_events(folder)[0]]


def test_a_job_sent_back_by_an_administrator_goes_on_where_it_was(slurm: SlurmServer, tmp_path: Path) -> None:
    executor = make(tmp_path, 2)
    handle = executor.submit(job(tmp_path / "job", "styles", count=30, stay_at=3))
    until(executor, handle, lambda _: len(styles_in(tmp_path / "job")) == 3)
    slurm.run("scontrol", "requeue", handle["job"])
    status = until(executor, handle, lambda status: status.state is State.PENDING)
    assert "back in the queue" in status.reason or status.reason == "BeginTime"
    slurm.release(handle["job"])
    assert until(executor, handle, lambda status: status.over).code == 0
    assert starts(tmp_path / "job") == 2
    assert styles_in(tmp_path / "job") == list(range(30))


def test_a_job_sent_back_and_started_at_once_loses_nothing(slurm: SlurmServer, tmp_path: Path) -> None:
    """In the second of its requeue the node refuses its credential, and Slurm ends it; in the next it runs."""
    executor = make(tmp_path, 2)
    spec = job(tmp_path / "job", "styles", count=30, stay_at=3)
    handle = executor.submit(spec)
    until(executor, handle, lambda _: len(styles_in(tmp_path / "job")) == 3)
    slurm.run("scontrol", "requeue", handle["job"])
    slurm.wait(handle["job"], "PENDING")
    slurm.run("scontrol", "update", f"jobid={handle['job']}", "starttime=now")
    status = until(executor, handle, lambda status: status.over)
    if status.state is State.PREEMPTED:
        assert slurm.state(handle["job"]) == "FAILED"
        handle = executor.submit(replace(spec, attempt=1))
        status = until(executor, handle, lambda status: status.over)
    assert status.code == 0
    assert starts(tmp_path / "job") == 2
    assert styles_in(tmp_path / "job") == list(range(30))


def test_a_preempted_job_gives_way_and_goes_on_in_the_same_folder(slurm: SlurmServer, tmp_path: Path) -> None:
    executor = make(tmp_path, 2)
    handle = executor.submit(job(tmp_path / "job", "styles", count=40, stay_at=3))
    until(executor, handle, lambda _: len(styles_in(tmp_path / "job")) == 3)
    slurm.run("sbatch", "-p", "urgent", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    seen = set()
    until(executor, handle, lambda status: seen.add(status.state) or status.state is State.PENDING)  # type: ignore[func-returns-value]
    assert seen <= {State.RUNNING, State.PENDING}  # never told as ended
    slurm.release(handle["job"])
    assert until(executor, handle, lambda status: status.over).code == 0
    assert starts(tmp_path / "job") == 2
    assert styles_in(tmp_path / "job") == list(range(40))
    log = tmp_path / f"{handle['job']}_0_log.out"
    assert "started again by Slurm (restart 1)" in log.read_text()


def test_a_job_over_slurms_time_limit_continues_as_often_as_told(slurm: SlurmServer, tmp_path: Path) -> None:
    # Slurm looks at time limits every half minute or so; scancel sends the same signal at once.
    executor = SlurmExecutor(replace(QUICK, requeues=1, logs=str(tmp_path)))
    handle = executor.submit(job(tmp_path / "job", "styles", count=ENDLESS, pause=0.1))
    wait_for_start(executor, handle)
    slurm.run("scancel", "--signal=USR2", handle["job"])
    slurm.release(handle["job"])
    wait_for_start(executor, handle, 2)
    slurm.run("scancel", "--signal=USR2", handle["job"])
    status = until(executor, handle, lambda status: status.over)
    assert (status.state, status.kind) == (State.EXITED, Kind.TIMEOUT)
    assert "time limit" in status.reason
    wait_until_free(tmp_path / "job")


def test_a_job_that_somebody_else_cancels_is_told(slurm: SlurmServer, tmp_path: Path) -> None:
    executor = make(tmp_path, 1)
    running = executor.submit(job(tmp_path / "running", "stubborn"))
    waiting = executor.submit(job(tmp_path / "waiting", "add", a=1, b=2))
    wait_for_start(executor, running)
    slurm.run("scancel", waiting["job"])
    assert until(executor, waiting, lambda status: status.over).kind is Kind.CANCELLED
    slurm.run("scancel", running["job"])
    status = until(executor, running, lambda status: status.over)
    assert (status.state, status.kind) == (State.EXITED, Kind.CANCELLED)
    wait_until_free(tmp_path / "running")


def test_a_drained_cluster_keeps_jobs_waiting_and_says_why(slurm: SlurmServer, tmp_path: Path) -> None:
    executor = make(tmp_path, 2)
    before = executor.submit(job(tmp_path / "before", "styles", count=ENDLESS, pause=0.1))
    wait_for_start(executor, before)
    for name in ("jdx1", "jdx2"):
        slurm.run("scontrol", "update", f"nodename={name}", "state=drain", "reason=test")
    after = executor.submit(job(tmp_path / "after", "add", a=3, b=4))
    status = until(executor, after, lambda status: status.reason not in {"", "None", "Priority"})
    assert status.state is State.PENDING
    assert executor.poll([before])[before["id"]].state is State.RUNNING
    ask_to_stop(tmp_path / "before")
    assert until(executor, before, lambda status: status.over).code == 0
    assert executor.poll([after])[after["id"]].state is State.PENDING
    for name in ("jdx1", "jdx2"):
        slurm.run("scontrol", "update", f"nodename={name}", "state=resume")
    assert until(executor, after, lambda status: status.over).code == 0


def test_a_job_is_found_when_the_controller_died_before_it_knew_its_number(
    slurm: SlurmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    specs = [job(tmp_path / str(n), "styles", count=ENDLESS, pause=0.1) for n in range(2)]
    first = make(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(SlurmExecutor, "_written_down", lambda *_: (_ for _ in ()).throw(Died))
        with pytest.raises(Died):
            first.submit_many(specs)
    second = make(tmp_path, 2)
    with pytest.raises(AlreadyRunningError, match="Slurm job"):
        second.submit(specs[0])
    for spec in specs:
        bare = {"id": spec.id, "folder": str(spec.folder)}
        assert second.adopt(bare)
        wait_for_start(second, bare)
        ask_to_stop(spec.folder)
        assert until(second, bare, lambda status: status.over).code == 0
        assert starts(spec.folder) == 1


def test_a_silent_slurmctld_is_waited_for(
    slurm: SlurmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make(tmp_path, 4)
    handle, sleeper = (
        executor.submit(job(tmp_path / "job", "styles", count=ENDLESS, pause=0.1)),
        executor.submit(job(tmp_path / "sleeper", "sleep", seconds=1000.0)),
    )
    for one in (handle, sleeper):
        wait_for_start(executor, one)
        until(executor, one, lambda status: status.state is State.RUNNING)  # Slurm says so too
    slurm.stop_daemon("slurmctld")
    try:
        with monkeypatch.context() as patch:  # when it is there again it may be slow
            patch.setattr("launcher.slurm_queue.UNREACHABLE", 2.0)
            assert executor.poll([handle])[handle["id"]].state is State.RUNNING
            with pytest.raises(UnreachableError):
                executor.submit(job(tmp_path / "later", "add", a=1, b=2))
            second = make(tmp_path, 4)
            assert second.adopt(handle)
            # The folder says how it ended, whatever Slurm is up to.
            ask_to_stop(tmp_path / "job")
            assert until(second, handle, lambda status: status.over).code == 0
        back = threading.Timer(3.0, slurm.start_controller)
        back.start()
        executor.cancel(sleeper, grace=5.0)  # waits for it
        back.join()
    finally:
        if "slurmctld" not in slurm.processes:
            slurm.start_controller()
    assert executor.poll([sleeper])[sleeper["id"]].kind is Kind.CANCELLED
    later = executor.submit(job(tmp_path / "later", "add", a=1, b=2))
    assert until(executor, later, lambda status: status.over).code == 0


def test_jobs_get_the_cards_that_slurm_gives_them(slurm: SlurmServer, tmp_path: Path) -> None:
    executor = make(tmp_path, 4)
    names = ["CUDA_VISIBLE_DEVICES", "SLURM_GPUS_ON_NODE"]
    one = executor.submit(job(tmp_path / "one", "environment", gpus=2, names=names))
    none = executor.submit(job(tmp_path / "none", "environment", names=names))
    for handle in (one, none):
        assert until(executor, handle, lambda status: status.over).code == 0
    seen = {name: (read_result(tmp_path / name) or {})["value"]["env"] for name in ("one", "none")}
    assert seen["one"]["SLURM_GPUS_ON_NODE"] == "2"
    assert seen["none"]["CUDA_VISIBLE_DEVICES"] == ""
    if slurm.devices:
        assert seen["one"]["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert executor.poll([one])[one["id"]].gpus == ("0", "1")


@pytest.mark.usefixtures("slurm")
def test_half_a_card_and_an_unknown_partition_are_refused_in_words(tmp_path: Path) -> None:
    executor = SlurmExecutor(replace(QUICK, partition="nowhere"))
    with pytest.raises(ValueError, match="whole cards"):
        executor.submit(job(tmp_path / "half", "add", gpus=0.5, a=1, b=2))
    with pytest.raises(RefusedError, match="partition"):
        executor.submit(job(tmp_path / "lost", "add", a=1, b=2))
    assert not executor.adopt({"id": "x", "folder": str(tmp_path / "lost"), "attempt": 0})


def test_where_there_is_no_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RefusedError, match="login node"):
        SlurmExecutor(QUICK)
