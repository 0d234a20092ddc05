"""Jobs through a real Ray cluster: the contract, and what happens when a node dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.base import AlreadyRunningError, Handle, JobSpec, Kind, RefusedError, State, Status
from launcher.cluster_settings import RaySettings
from launcher.factory import make_executor
from launcher.folder import ask_to_stop, read_events, read_result
from launcher.processes import is_alive
from launcher.ray import RayExecutor
from tests.launcher.kit import ENDLESS, ExecutorKit, wait_until_free
from tests.servers.ray import RayServer

pytest.importorskip("ray", reason="Ray is not installed (pip install 'jdx[ray]')")


def make(root: Path, slots: int) -> RayExecutor:
    """Executor whose jobs ask for so much that the test cluster has room for `slots` of them."""
    resources = {1: {"one": 1.0}, 2: {"slot": 2.0}, 4: {"slot": 1.0}}[slots]
    return RayExecutor(RaySettings(resources=resources))


@pytest.mark.usefixtures("ray_cluster")
class TestRay(ExecutorKit):
    factory = "tests.launcher.test_ray:make"
    many = 12


def job(folder: Path, name: str, *, gpus: float = 0.0, **payload: Any) -> JobSpec:
    """A job of tests/launcher/jobs.py."""
    folder.mkdir(exist_ok=True)
    return JobSpec(folder, f"tests.launcher.jobs:{name}", payload, gpus=gpus, name=folder.name)


def until(
    executor: RayExecutor, handle: Handle, done: Callable[[Status], bool], limit: float = ExecutorKit.patience
) -> Status:
    """Poll until the job's status is as wanted."""
    deadline = time.monotonic() + limit
    while not done(status := executor.poll([handle])[handle["id"]]):
        assert time.monotonic() < deadline, status
        time.sleep(0.1)
    return status


def test_a_job_of_a_node_that_dies_is_lost_and_goes_on_elsewhere(
    ray_cluster: RayServer, tmp_path: Path
) -> None:
    executor = RayExecutor(RaySettings(resources={"doomed": 1.0}))
    folder = tmp_path / "job"
    doomed = ray_cluster.add_node({"doomed": 1.0})
    handle = executor.submit(job(folder, "styles", count=ENDLESS, pause=0.1))
    until(executor, handle, lambda _: len(read_events(folder)[0]) >= 3)
    assert executor.poll([handle])[handle["id"]].state is State.RUNNING
    ray_cluster.kill_node(doomed)
    status = until(executor, handle, lambda status: status.over)
    assert status.state in {State.LOST, State.PREEMPTED}
    assert status.reason
    wait_until_free(folder)
    before = len(read_events(folder)[0])
    ask_to_stop(folder)  # enough of it
    elsewhere = RayExecutor(RaySettings(resources={"slot": 1.0}))
    again = elsewhere.submit(replace(job(folder, "styles", count=ENDLESS, pause=0.1), attempt=1))
    assert until(elsewhere, again, lambda status: status.over).code == 0
    result = read_result(folder, 1) or {}
    assert (result["state"], result["value"]["styles"]) == ("stopped", before)


def test_a_killed_actor_takes_its_job_with_it(ray_cluster: RayServer, tmp_path: Path) -> None:
    import ray

    executor = make(tmp_path, 2)
    handle = executor.submit(job(tmp_path / "job", "stubborn"))
    until(executor, handle, lambda _: len(list((tmp_path / "job").glob("child.*"))) == 2)
    ray.kill(ray.get_actor(handle["actor"], namespace="jdx"))  # somebody else, from Ray's dashboard
    status = until(executor, handle, lambda status: status.over)
    assert status.state is State.LOST
    wait_until_free(tmp_path / "job")
    pids = [int(path.suffix[1:]) for path in (tmp_path / "job").glob("child.*")]
    until(executor, handle, lambda _: not [pid for pid in pids if is_alive(pid, None)])


def test_a_job_is_found_by_its_folder_alone(ray_cluster: RayServer, tmp_path: Path) -> None:
    first, second = make(tmp_path, 2), make(tmp_path, 2)
    handle = first.submit(job(tmp_path / "job", "styles", count=ENDLESS, pause=0.1))
    bare = {"id": handle["id"], "folder": handle["folder"]}
    assert second.adopt(bare)
    with pytest.raises(AlreadyRunningError, match="Ray actor"):
        second.submit(replace(job(tmp_path / "job", "add", a=1, b=2), attempt=1))
    ask_to_stop(tmp_path / "job")
    assert until(second, bare, lambda status: status.over).code == 0
    (tmp_path / "other").mkdir()
    assert not second.adopt({"id": "other", "folder": str(tmp_path / "other")})


def test_jobs_share_a_card(ray_cluster: RayServer, tmp_path: Path) -> None:
    cards = ray_cluster.add_node({"cards": 4.0}, gpus=1)
    try:
        executor = RayExecutor(RaySettings(resources={"cards": 1.0}))
        half = job(tmp_path / "0", "sleep", gpus=0.5)
        ray_cluster.wait_for("GPU", 1.0)
        assert executor.capacity(half) == 2
        handles = [executor.submit(job(tmp_path / str(n), "sleep", gpus=0.5)) for n in range(3)]
        for handle in handles[:2]:
            status = until(executor, handle, lambda status: bool(status.gpus))
            assert status.gpus == ("0",)
        assert executor.poll(handles)[handles[2]["id"]].state is State.PENDING
        assert executor.capacity(half) == 0
        executor.cancel_all(handles, grace=5.0)
        assert {status.kind for status in executor.poll(handles).values()} == {Kind.CANCELLED}
    finally:
        ray_cluster.kill_node(cards)


def test_where_there_is_no_cluster_it_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**settings: Any) -> None:
        raise ConnectionError(f"nobody at {settings['address']}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RefusedError, match="ray start --head") as caught:
        make_executor({"name": "ray", "address": "nowhere:6379"})
    assert "nowhere:6379" in str(caught.value)
