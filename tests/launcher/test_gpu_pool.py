"""The local pool passes the kit, on CPU slots; what only it promises is below, with cards that are made up."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.base import Executor, Handle, JobSpec, Kind, Slot, State, Status
from launcher.cards import Card, Cards
from launcher.folder import Lease, is_held, read_lease, read_result
from launcher.gpu_pool import GpuPool
from launcher.settings import PoolSettings
from tests.launcher.kit import CONTROLLER, ExecutorKit, runs, wait_until_free

GIB = 2**30


def make(root: Path, slots: int) -> Executor:
    """A pool with leases of its own."""
    return GpuPool(PoolSettings(leases=str(root / "leases"), cpu_slots=slots))


class TestGpuPool(ExecutorKit):
    factory = "tests.launcher.test_gpu_pool:make"


class FakeCards(Cards):
    """Cards of 10 GiB."""

    def __init__(self, count: int):
        self.memory = {f"GPU-{number}": 0.0 for number in range(count)}

    def list(self) -> list[Card]:
        return [Card(name, "Fake", name[4:], 10 * GIB) for name in self.memory]

    def used(self, card: Card) -> int:
        return int(self.memory[card.id] * GIB)


Pool = Callable[..., GpuPool]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """Make pools: `pool(cards=FakeCards(2), warm=False)`."""
    made: list[GpuPool] = []

    def make(cards: Cards | None = None, **settings: Any) -> GpuPool:
        settings = {"leases": str(tmp_path / "leases"), "cpu_slots": 2, **settings}
        made.append(GpuPool(PoolSettings(**settings), cards or FakeCards(0)))
        return made[-1]

    yield make
    for one in made:
        one.close(kill=True)


def spec(folder: Path, job: str, *, attempt: int = 0, **settings: Any) -> JobSpec:
    """A job of tests/launcher/jobs.py."""
    folder.mkdir(exist_ok=True)
    own = {name: settings.pop(name) for name in ("timeout", "env", "cpus", "gpus") if name in settings}
    return JobSpec(folder, f"tests.launcher.jobs:{job}", settings, attempt=attempt, name=folder.name, **own)


def until(
    executor: Executor, handle: Handle, done: Callable[[Status], bool], patience: float = 180
) -> Status:
    """Poll until `done(status)`."""
    deadline = time.monotonic() + patience
    while not done(status := executor.poll([handle])[handle["id"]]):
        assert time.monotonic() < deadline, status
        executor.wait(0.05)
    return status


def happens(done: Callable[[], bool], patience: float = 180) -> None:
    """Wait until `done()`."""
    deadline = time.monotonic() + patience
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ended(executor: Executor, handle: Handle) -> Status:
    """Wait for a job's end."""
    return until(executor, handle, lambda status: status.over)


def value(folder: Path) -> dict[str, Any]:
    """What a job returned."""
    result = read_result(folder)
    assert result is not None
    assert "value" in result, result
    found: dict[str, Any] = result["value"]
    return found


# -- warm workers ---------------------------------------------------------------------------------------------------


def pids(executor: GpuPool, root: Path, count: int, **settings: Any) -> list[int]:
    """Workers of some jobs that run one after the other."""
    found = []
    for number in range(count):
        folder = root / f"{len(list(root.iterdir()))}-{number}"
        assert ended(executor, executor.submit(spec(folder, "add", a=1, b=1, **settings))).code == 0
        found.append(value(folder)["pid"])
    return found


def test_a_warm_worker_takes_the_next_job_and_is_replaced_after_some(pool: Pool, tmp_path: Path) -> None:
    assert [len({*pids(pool(jobs_per_worker=2), tmp_path, 4)})] == [2]


def test_without_warmth_each_job_has_its_process(pool: Pool, tmp_path: Path) -> None:
    assert len({*pids(pool(warm=False), tmp_path, 3)}) == 3


def test_another_environment_means_another_worker(pool: Pool, tmp_path: Path) -> None:
    executor = pool(cpu_slots=1)
    one, two = (pids(executor, tmp_path, 1, env=env)[0] for env in ({}, {"JDX_TEST": "1"}))
    assert one != two
    assert not psutil.pid_exists(one), "it was in the way of the other"


def test_a_worker_is_kept_after_an_exception_but_not_after_a_lack_of_memory(
    pool: Pool, tmp_path: Path
) -> None:
    executor = pool()
    first = pids(executor, tmp_path, 1)[0]
    ended(executor, executor.submit(spec(tmp_path / "raises", "fail", error="KeyError")))
    assert pids(executor, tmp_path, 1) == [first]
    ended(executor, executor.submit(spec(tmp_path / "oom", "fail", error="MemoryError")))
    assert pids(executor, tmp_path, 1) != [first]


def test_what_a_job_keeps_lives_on_for_the_workers_next_job(pool: Pool, tmp_path: Path) -> None:
    executor = pool(cpu_slots=1)

    def children(name: str) -> list[int]:
        return [int(path.suffix[1:]) for path in (tmp_path / "job" / name).glob("child.*")]

    assert ended(executor, executor.submit(spec(tmp_path / "job", "keep_child"))).code == 0
    assert [len(children(name)) for name in ("kept", "lost")] == [2, 2]
    assert all(map(runs, children("kept")))
    assert not any(map(runs, children("lost")))
    executor.close(kill=True)
    happens(lambda: not any(map(runs, children("kept"))))


@pytest.mark.parametrize("what", ["grow", "grow_child"])
def test_a_worker_that_grows_is_replaced(pool: Pool, tmp_path: Path, what: str) -> None:
    executor = pool(memory_growth=0.05)
    seen = []
    for number, mib in enumerate((1, 1, 180, 1)):
        ended(executor, executor.submit(spec(tmp_path / str(number), what, mib=mib)))
        seen.append(value(tmp_path / str(number))["pid"])
    assert seen[0] == seen[1] == seen[2] != seen[3]


def test_an_idle_worker_gives_its_slot_back_and_an_orphaned_one_ends(pool: Pool, tmp_path: Path) -> None:
    executor = pool(idle_seconds=0.2)
    (pid,) = pids(executor, tmp_path, 1)
    worker = psutil.Process(pid)
    happens(lambda: executor.poll([]) == {} and not worker.is_running())
    job = {"folder": str(tmp_path / "job"), "target": "tests.launcher.jobs:add", "gpus": 0}
    (tmp_path / "job").mkdir()
    words = [str(tmp_path), "tests.launcher.test_gpu_pool:make", 1, [job | {"payload": {"a": 1, "b": 1}}]]
    command = [sys.executable, "-c", CONTROLLER, json.dumps(words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as controller:
        happens(lambda: read_result(tmp_path / "job") is not None)
        worker = psutil.Process(value(tmp_path / "job")["pid"])
        controller.kill()
    happens(lambda: not runs(worker.pid))


def test_threads_of_a_job(pool: Pool, tmp_path: Path) -> None:
    executor = pool(threads_per_job=3)
    for name, cpus, threads in (("own", 1, "3"), ("more", 5, "5")):
        handle = executor.submit(spec(tmp_path / name, "environment", names=["OMP_NUM_THREADS"], cpus=cpus))
        ended(executor, handle)
        assert value(tmp_path / name)["env"] == {"OMP_NUM_THREADS": threads}


# -- cards ----------------------------------------------------------------------------------------------------------

VISIBLE = ["CUDA_VISIBLE_DEVICES", "JDX_GPU_SHARE"]


def test_each_job_sees_its_own_cards(pool: Pool, tmp_path: Path) -> None:
    executor = pool(FakeCards(3))
    assert executor.capacity() == 3
    assert executor.capacity(spec(tmp_path / "like", "add", gpus=2)) == 1
    assert executor.capacity(spec(tmp_path / "like", "add", gpus=0.5)) == 6
    two = executor.submit(spec(tmp_path / "two", "environment", names=VISIBLE, gpus=2))
    one = executor.submit(spec(tmp_path / "one", "environment", names=VISIBLE, gpus=1))
    ended(executor, two)
    status = ended(executor, one)
    seen = [value(tmp_path / name)["env"]["CUDA_VISIBLE_DEVICES"].split(",") for name in ("two", "one")]
    assert sorted(seen[0] + seen[1]) == ["GPU-0", "GPU-1", "GPU-2"]
    assert status.gpus == tuple(seen[1]) == tuple(value(tmp_path / "one")["gpus"])


def test_a_job_without_a_card_sees_none_and_too_many_are_refused(pool: Pool, tmp_path: Path) -> None:
    executor = pool(FakeCards(1))
    ended(executor, executor.submit(spec(tmp_path / "cpu", "environment", names=VISIBLE, gpus=0)))
    assert value(tmp_path / "cpu")["env"]["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(ValueError, match="2 cards are wanted and there are 1"):
        executor.submit(spec(tmp_path / "two", "add", gpus=2))


def test_jobs_share_a_card_up_to_its_whole(pool: Pool, tmp_path: Path) -> None:
    executor = pool(FakeCards(1))
    handles = [executor.submit(spec(tmp_path / str(n), "sleep", gpus=1 / 3)) for n in range(4)]
    until(executor, handles[2], lambda status: status.state is State.RUNNING)
    assert executor.poll(handles)[handles[3]["id"]].state is State.PENDING
    (slot,) = executor.slots()
    assert slot == Slot("Fake 0", slot.used, 1.0, ("0", "1", "2"))
    assert slot.used == pytest.approx(1.0)
    executor.cancel_all(handles, grace=1.0)


def test_a_card_that_others_use_is_left_alone(pool: Pool, tmp_path: Path) -> None:
    cards = FakeCards(2)
    executor = pool(cards, foreign_memory=1.0)
    cards.memory["GPU-0"] = 3.0
    assert executor.capacity() == 1
    assert [slot.closed for slot in executor.slots()] == ["other processes use 3.0 GiB of it", ""]
    ended(executor, executor.submit(spec(tmp_path / "job", "environment", names=VISIBLE)))
    assert value(tmp_path / "job")["env"]["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    cards.memory["GPU-1"] = 9.0  # ours: a worker holds it, and may fill it
    assert executor.slots()[1].closed == ""


def test_a_card_that_fails_is_set_aside_until_a_probe_succeeds(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended = tmp_path / "mended"
    probe = (
        f"import os, sys; open({str(tmp_path / 'probes')!r}, 'a').write('x');"
        f"sys.exit(0 if os.path.exists({str(mended)!r}) else 'the card is gone')"
    )
    monkeypatch.setattr("launcher.quarantine.Ward.command", (sys.executable, "-c", probe))
    executor, other = pool(FakeCards(2), probe_every=0.2), pool(FakeCards(2), probe_every=0.2)
    text = "CUDA error: unspecified launch failure"
    status = ended(executor, executor.submit(spec(tmp_path / "a", "fail", error="RuntimeError", text=text)))
    assert status.kind is Kind.GPU_LOST
    assert (executor.capacity(), other.capacity()) == (1, 1)
    assert executor.capacity() == 1
    assert sum(text in slot.closed for slot in other.slots()) == 1
    handle = executor.submit(spec(tmp_path / "b", "environment", names=VISIBLE))
    ended(executor, handle)
    assert (value(tmp_path / "b")["env"]["CUDA_VISIBLE_DEVICES"],) != status.gpus

    def probes() -> int:
        path = tmp_path / "probes"
        return path.stat().st_size if path.exists() else 0

    tried = probes()
    happens(lambda: executor.capacity() == 1 and probes() >= tried + 2)
    assert executor.capacity() == 1, "a failing probe opens nothing"
    mended.touch()
    happens(lambda: (executor.capacity(), other.capacity()) == (2, 2))


def test_two_pools_of_two_processes_never_exceed_the_slots(tmp_path: Path) -> None:
    words = []
    for name in "ab":
        jobs = []
        for number in range(12):
            folder = tmp_path / f"{name}{number}"
            folder.mkdir()
            jobs.append(
                {
                    "folder": str(folder),
                    "target": "tests.launcher.jobs:interval",
                    "payload": {"seconds": 0.1, "meets": ["a0", "b0"]},
                    "gpus": 0,
                    "env": {"JDX_TEST": str(number % 2)},  # workers come and go, so slots change hands
                }
            )
        words.append(json.dumps([str(tmp_path), "tests.launcher.test_gpu_pool:make", 2, jobs]))
    controllers = [subprocess.Popen([sys.executable, "-c", CONTROLLER, word], stdout=-3) for word in words]
    folders = [tmp_path / f"{name}{number}" for name in "ab" for number in range(12)]
    try:
        happens(lambda: all(read_result(folder) for folder in folders))
    finally:
        for controller in controllers:
            controller.kill()
            controller.wait()
    edges = [(value(f)["start"], 1) for f in folders] + [(value(f)["end"], -1) for f in folders]
    running, most = 0, 0
    for _, change in sorted(edges):
        running += change
        most = max(most, running)
    assert most == 2


# -- faults ---------------------------------------------------------------------------------------------------------


def test_a_job_that_stands_still_is_reported_and_then_killed(pool: Pool, tmp_path: Path) -> None:
    executor = pool(stale_after=5.0, kill_after=10_000.0)
    handle = executor.submit(spec(tmp_path / "job", "stop_self"))
    status = until(executor, handle, lambda status: "no heartbeat" in status.reason)
    assert status.state is State.RUNNING
    patient, executor.settings = executor.settings, replace(executor.settings, kill_after=5.0)
    status = ended(executor, handle)
    executor.settings = patient  # the next worker may take its time to come up
    assert (status.state, status.kind) == (State.EXITED, Kind.HUNG)
    assert ended(executor, executor.submit(spec(tmp_path / "next", "add", a=1, b=1))).code == 0


def test_a_stopped_job_over_its_time_is_killed_from_outside(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.gpu_pool.TIMEOUT_GRACE", 0.5)
    executor = pool()
    status = ended(executor, executor.submit(spec(tmp_path / "job", "stop_self", timeout=1.0)))
    assert status.kind is Kind.TIMEOUT


def test_running_out_of_address_space_is_out_of_memory(pool: Pool, tmp_path: Path) -> None:
    executor = pool()
    first = executor.submit(spec(tmp_path / "job", "fill_address_space", limit=GIB))
    assert ended(executor, first).kind is Kind.OOM
    assert ended(executor, executor.submit(spec(tmp_path / "next", "add", a=1, b=1))).code == 0


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A control group with 64 MiB of memory."""
    for base, limit in (("memory", "memory.limit_in_bytes"), ("unified", "memory.max"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup") / base / f"jdx-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(64 << 20))
        except OSError as error:
            reason = f"no control group with a memory limit can be made: {error}"
            if group.is_dir():
                group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip(reason)


def test_the_kernels_killing_for_memory_is_told_from_any_other_kill(
    pool: Pool, tmp_path: Path, small_cgroup: Path
) -> None:
    executor = pool()
    handle = executor.submit(spec(tmp_path / "job", "fill_cgroup", cgroup=str(small_cgroup)))
    until(executor, handle, lambda _: bool((small_cgroup / "cgroup.procs").read_text()))
    executor.poll([handle])  # notes where it is
    (tmp_path / "job" / "seen").touch()
    while not (status := executor.poll([handle])[handle["id"]]).over:
        pass  # no pause: it is also looked at while it frees its memory and seems to be in no group
    assert (status.code, status.kind) == (-signal.SIGKILL, Kind.OOM)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_told_once_there_is_room_and_tears_no_event(
    pool: Pool, tmp_path: Path, small_disk: Path
) -> None:
    executor = pool()
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (300 << 10))
    handle = executor.submit(spec(small_disk / "job", "write_events"))
    until(executor, handle, lambda status: (small_disk / "full").exists())
    events = small_disk / "job" / "events.jsonl"
    ballast.unlink()
    status = ended(executor, handle)
    assert status.kind is Kind.DISK_FULL
    assert all(json.loads(line)["fill"] for line in events.read_text().splitlines())


def full_disk(
    monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOSPC, key: str = "host"
) -> Callable[[], None]:
    """No lease that says `key` can be written until the answer is called: a job's say the host, a card's the share."""
    real, full = Lease.write, [True]

    def write(lease: Lease, **content: Any) -> None:
        if full and key in content:
            raise OSError(code, os.strerror(code))
        real(lease, **content)

    monkeypatch.setattr(Lease, "write", write)
    return full.clear


@pytest.mark.parametrize(
    ("key", "code"), [("host", errno.ENOSPC), ("host", errno.EDQUOT), ("share", errno.ENOSPC)]
)
def test_a_job_waits_for_room_for_its_leases_and_keeps_nothing_meanwhile(
    pool: Pool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    key: str,
    code: int,
) -> None:
    executor, other = pool(FakeCards(2)), pool(FakeCards(2))
    make_room = full_disk(monkeypatch, code, key)
    handle = executor.submit(spec(tmp_path / "job", "add", a=1, b=1, gpus=2))
    for _ in range(3):
        status = executor.poll([handle])[handle["id"]]
        assert (status.state, status.reason) == (
            State.PENDING,
            f"waits for room on the disk: {os.strerror(code)}",
        )
        assert ([slot.used for slot in executor.slots()], other.capacity()) == ([0.0, 0.0], 2)
        assert not is_held(tmp_path / "job")
        assert read_result(tmp_path / "job") is None
    assert executor._workers == []
    assert [f"job waits for room in {tmp_path}" in text for text in caplog.messages] == [True]
    other_job = executor.submit(spec(tmp_path / "next", "add", a=1, b=1, gpus=2))
    make_room()
    assert executor.poll([other_job])[other_job["id"]].reason == "waits for a free place"
    status = ended(executor, handle)
    assert (status.code, status.gpus) == (0, ("GPU-0", "GPU-1"))


def test_a_worker_that_is_up_gets_its_job_when_the_disk_fills_up_just_then(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = pool(FakeCards(1))
    make_room = full_disk(monkeypatch, key="pid")  # where even overwriting takes new blocks
    handle = executor.submit(spec(tmp_path / "job", "add", a=1, b=1))
    (worker,) = executor._workers
    assert executor.poll([handle])[handle["id"]].state is State.PENDING
    assert executor.slots()[0].used == 1.0
    make_room()
    assert ended(executor, handle).code == 0
    assert value(tmp_path / "job")["pid"] == worker.process.pid


def test_an_idle_worker_waits_with_its_job_for_room(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = pool(cpu_slots=1)
    (pid,) = pids(executor, tmp_path, 1)
    make_room = full_disk(monkeypatch)
    handle = executor.submit(spec(tmp_path / "job", "add", a=1, b=1))
    for _ in range(3):
        assert executor.poll([handle])[handle["id"]].state is State.PENDING
        assert not is_held(tmp_path / "job")
    make_room()
    assert ended(executor, handle).code == 0
    assert value(tmp_path / "job")["pid"] == pid


def test_a_lease_that_cannot_be_written_for_another_reason_is_raised(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, other = pool(FakeCards(1)), pool(FakeCards(1))
    full_disk(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        executor.submit(spec(tmp_path / "job", "add", a=1, b=1))
    assert other.capacity() == 1
    assert not is_held(tmp_path / "job")


def test_a_queued_job_waits_while_a_real_disk_is_full(pool: Pool, tmp_path: Path, small_disk: Path) -> None:
    executor = pool(cpu_slots=1)
    first = executor.submit(spec(tmp_path / "first", "sleep"))
    handle = executor.submit(spec(small_disk / "job", "add", a=1, b=1))
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(2 << 20))  # what fits stays
    executor.cancel(first)
    for _ in range(3):
        assert executor.poll([handle])[handle["id"]].state is State.PENDING
        assert executor.slots()[0].used == 0.0
    ballast.unlink()
    assert ended(executor, handle).code == 0


def test_a_killed_workers_daemon_is_ended_too(pool: Pool, tmp_path: Path) -> None:
    executor = pool()
    handle = executor.submit(spec(tmp_path / "job", "lose_child"))
    until(executor, handle, lambda status: status.over or bool(list((tmp_path / "job").glob("child.*"))))
    os.kill(read_lease(tmp_path / "job")["pid"], signal.SIGKILL)
    assert ended(executor, handle).kind is Kind.KILLED
    (child,) = (int(path.suffix[1:]) for path in (tmp_path / "job").glob("child.*"))
    assert not runs(child)


@pytest.fixture
def slow_start(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python takes minutes to come up: SIGTERM finds a process that cannot hear it yet."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text("import time; time.sleep(300)")
    return {"PYTHONPATH": str(tmp_path / "slow")}


def test_a_job_that_is_cancelled_while_its_worker_comes_up_was_cancelled(
    pool: Pool, tmp_path: Path, slow_start: dict[str, str]
) -> None:
    executor = pool()
    handle = executor.submit(spec(tmp_path / "job", "add", a=1, b=1, env=slow_start))
    executor.cancel(handle, grace=60.0)
    status = ended(executor, handle)
    assert (status.state, status.kind) == (State.EXITED, Kind.CANCELLED)
    assert (read_result(tmp_path / "job") or {})["error"]["kind"] == Kind.CANCELLED


def test_a_worker_that_only_comes_up_can_be_ended_by_the_next_controller(
    pool: Pool, tmp_path: Path, slow_start: dict[str, str]
) -> None:
    first = pool()
    handle = first.submit(spec(tmp_path / "job", "add", a=1, b=1, env=slow_start))
    pid = first._workers[0].process.pid
    first.close(kill=False)
    second = pool()
    assert second.adopt(handle)
    second.cancel(handle, grace=60.0)
    assert ended(second, handle).kind is Kind.CANCELLED
    assert not runs(pid)
    wait_until_free(tmp_path / "job")


def test_who_looks_at_a_job_that_has_ended_does_not_hide_its_end(pool: Pool, tmp_path: Path) -> None:
    """Somebody has the lease for a moment, as who submits a folder once more."""
    executor = pool()
    handle = executor.submit(spec(tmp_path / "job", "add", a=1, b=1))
    happens(lambda: read_result(tmp_path / "job") is not None)
    other = Lease.take(tmp_path / "job", patience=60.0)
    try:
        assert ended(executor, handle).code == 0
    finally:
        other.close()


def test_a_worker_that_cannot_start_is_told(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    status = ended(pool(), pool().submit(spec(tmp_path / "job", "add", a=1, b=1)))
    assert status.state is not State.RUNNING
    assert status.code != 0


def test_a_queued_job_is_not_adopted_by_the_next_controller(pool: Pool, tmp_path: Path) -> None:
    first = pool(cpu_slots=1)
    runs = first.submit(spec(tmp_path / "runs", "sleep"))
    waits = first.submit(spec(tmp_path / "waits", "add", a=1, b=1))
    until(first, runs, lambda status: status.state is State.RUNNING)
    first.close(kill=False)
    second = pool(cpu_slots=1)
    assert (second.adopt(runs), second.adopt(waits)) == (True, False)
    second.cancel(runs, grace=2.0)
    assert ended(second, second.submit(spec(tmp_path / "waits", "add", a=1, b=1))).code == 0
    assert "tag" in read_lease(tmp_path / "waits")
