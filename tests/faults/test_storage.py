"""The study's storage is locked, gone or full for a while; two sweeps want one study."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from jdx.errors import ConfigError
from sweeps import storage
from sweeps.ledger import owner_name
from sweeps.storage import STUDY_FILE, DamagedError, Patience, StorageGoneError, open_storage
from sweeps.sweeper import _alone
from tests.faults.test_controller_dies import start, wait_for
from tests.sweeps.bench import Bench, states


def later(seconds: float, what: Any) -> threading.Thread:
    thread = threading.Timer(seconds, what)
    thread.start()
    return thread


@contextlib.contextmanager
def meanwhile(root: Path, what: Callable[[], None]) -> Iterator[None]:
    """Do it when the first job of a sweep has begun; its jobs await the file `done` and so end afterwards."""

    def when_begun() -> None:
        wait_for((root / "starts.txt").exists)
        what()
        (root / "done").touch()

    thread = later(0.0, when_begun)
    try:
        yield
    finally:
        thread.join()
    assert (root / "done").exists()


AWAIT = {"awaits": "done"}
SPACE: dict[str, optuna.distributions.BaseDistribution] = {"x": optuna.distributions.IntDistribution(0, 9)}


def test_a_study_locked_for_ten_seconds_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BUSY_TIMEOUT", 1.0)  # so that SQLite's own patience is not what is tested
    bench = Bench(tmp_path, payload=AWAIT, patience=120.0)
    bench.root.mkdir(exist_ok=True)
    bench.ledger()  # makes the file
    other = sqlite3.connect(
        tmp_path / STUDY_FILE, isolation_level=None, check_same_thread=False, timeout=60.0
    )

    def lock() -> None:
        other.execute("BEGIN EXCLUSIVE")
        threads.append(later(10.0, lambda: other.execute("ROLLBACK")))

    threads = list[threading.Thread]()
    with meanwhile(tmp_path, lock):
        controller, done = bench.run()
    threads[0].join()
    assert done
    assert set(states(controller).values()) == {"COMPLETE"}
    assert sorted(bench.starts().values()) == [1] * 6
    assert len(controller.ledger.trials()) == 6


def test_a_study_gone_for_ten_seconds_is_waited_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "sweep", payload=AWAIT, patience=120.0)
    bench.root.mkdir()
    bench.ledger()
    away = tmp_path / "away.db"

    def leave() -> None:
        shutil.move(bench.root / STUDY_FILE, away)
        later(10.0, lambda: shutil.move(away, bench.root / STUDY_FILE))

    with meanwhile(bench.root, leave):
        controller, done = bench.run()
    assert done
    assert set(states(controller).values()) == {"COMPLETE"}
    assert not away.exists()


def test_a_file_that_is_away_is_not_made_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ledger()
    (tmp_path / STUDY_FILE).rename(tmp_path / "elsewhere")
    with pytest.raises(StorageGoneError, match="the same command takes them up"):
        open_storage(storage.sqlite_url(tmp_path / STUDY_FILE, create=False), tmp_path, Patience(0.5))
    assert not (tmp_path / STUDY_FILE).exists()


def test_results_told_twice_are_told_once(tmp_path: Path) -> None:
    """An answer that got lost on its way: the storage had done it, and is asked again."""
    ledger = Bench(tmp_path).ledger()
    inner: Any = vars(ledger.storage)["inner"]
    real, lost = inner.set_trial_state_values, list[int]()

    def flaky(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        if not lost:
            lost.append(1)
            import sqlalchemy.exc

            raise sqlalchemy.exc.OperationalError("lost", {}, Exception("connection reset"))
        return answer

    ticket = ledger.ask(None)
    assert ticket is not None
    inner.set_trial_state_values = flaky
    ledger.complete(ticket, [1.0])
    ledger.complete(ticket, [2.0])  # a controller that did not know
    assert ledger.trials()[0].values == [1.0]
    assert lost


def test_a_second_controller_is_told_who_is_there(tmp_path: Path) -> None:
    with _alone(tmp_path), pytest.raises(ConfigError, match=f"process {os.getpid()} on"), _alone(tmp_path):
        pass
    with _alone(tmp_path):  # free again
        pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_pauses_the_sweep_and_ruins_nothing(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.controller.REST", 1.0)
    bench = Bench(small_disk, payload=AWAIT, pool={"leases": str(tmp_path / "leases")}, patience=0.5)
    bench.ledger()
    fill = small_disk / "fill"
    finished_before = list[int]()

    def full() -> None:
        with fill.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        threads.append(later(4.0, free))

    def free() -> None:
        finished_before.append(len(list(small_disk.rglob("result.json"))))
        fill.unlink()

    threads = list[threading.Thread]()
    with meanwhile(small_disk, full):
        controller, done = bench.run()
    threads[0].join()
    assert done
    assert finished_before[0] < 6, "the sweep was over before the disk had room again: nothing was tested"
    assert states(controller) == dict.fromkeys(range(6), "COMPLETE")
    optuna.load_study(study_name="study", storage=open_storage(None, small_disk))


def test_a_full_disk_is_waited_for_longer_than_an_absent_storage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite's own error: the file may not grow. It is told once, and waited for beyond `storage_patience`."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / STUDY_FILE}")
    tries = list[float]()
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x BLOB)")
        connection.exec_driver_sql("PRAGMA max_page_count=4")

        def write() -> str:
            tries.append(time.monotonic())
            if tries[-1] - tries[0] > 1.0:
                connection.exec_driver_sql("PRAGMA max_page_count=400")
            connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(100000))")
            return "written"

        patience = Patience(0.2, place=tmp_path / STUDY_FILE)
        assert patience(write) == "written"
        assert len(tries) > 2
        (full, back) = [record.getMessage() for record in caplog.records]
        assert "is full" in full
        assert "GiB free" in full
        assert "back after" in back
        connection.exec_driver_sql("PRAGMA max_page_count=1")
        patience.give_up = lambda: True  # Ctrl-C twice
        with pytest.raises(StorageGoneError, match="the same command takes them up"):
            patience(lambda: connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(9000000))"))


@pytest.mark.parametrize("damage", ["torn", "foreign", "inside"])
def test_a_damaged_study_is_told_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    bench = Bench(tmp_path, words=["x=0,1"])
    bench.run()
    file = tmp_path / STUDY_FILE
    whole = file.read_bytes()
    harm = {
        "torn": whole[: len(whole) // 2],
        "foreign": b"<html>" + whole[6:],
        "inside": whole[:4096] + b"\xff" * (len(whole) - 8192) + whole[-4096:],
    }
    file.write_bytes(harm[damage])
    with pytest.raises(DamagedError, match=r"study\.db is damaged[\s\S]*warm_start"):
        bench.run()
    assert file.read_bytes() == harm[damage]
    file.write_bytes(whole)
    controller, done = bench.run()
    assert done
    assert len(states(controller)) == 2


def test_a_writer_killed_in_a_transaction_ruins_nothing(tmp_path: Path) -> None:
    """Half of its pages are in the file; SQLite's journal beside it undoes them."""
    bench = Bench(tmp_path, words=["x=0,1,2"])
    controller, _ = bench.run()
    before = controller.ledger.trials()
    code = (
        "import os, signal, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for word in ('PRAGMA cache_size=1', 'BEGIN', 'DELETE FROM trial_params', 'DELETE FROM trial_values',\n"
        "             'DELETE FROM trials', 'CREATE TABLE junk AS SELECT zeroblob(500000) AS x'): c.execute(word)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    file = tmp_path / STUDY_FILE
    whole = file.read_bytes()
    subprocess.run([sys.executable, "-c", code, str(file)], check=False)
    assert file.read_bytes() != whole
    assert file.with_name(f"{STUDY_FILE}-journal").exists()
    again, done = bench.run()
    assert done
    assert [(t.params, t.values) for t in again.ledger.trials()] == [(t.params, t.values) for t in before]
    assert sum(bench.starts().values()) == 3


def test_two_controllers_share_a_study_on_a_server(tmp_path: Path, postgres_url: str) -> None:
    """Two sweep folders, as on two machines, one database: every point once, the total as asked."""
    settings: dict[str, Any] = {
        "words": ["x=range(0,24)"], "url": postgres_url, "shared": True, "payload": {"deeds": {"all": "meet"}},
        "pool": {"cpu_slots": 2},
    }  # fmt: skip
    roots = [tmp_path / name for name in ("a", "b")]
    running = [start(root, **settings) for root in roots]
    for one in running:
        _, err = one.communicate(timeout=300)
        assert one.returncode == 0, err
    bench = Bench(roots[0], **settings)
    trials = bench.ledger().counted()
    assert sorted(trial.params["x"] for trial in trials) == list(range(24))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    shares = [sum((Bench(root).starts()).values()) for root in roots]
    assert sum(shares) == 24
    assert min(shares) > 0
    assert {trial.user_attrs["jdx:owner"] for trial in trials} == {owner_name(root) for root in roots}


def test_controllers_may_open_an_empty_database_at_the_same_moment(tmp_path: Path, postgres_url: str) -> None:
    """Each finds no tables and makes them; the database refuses all but one."""
    together = threading.Barrier(6)

    def enter(number: int) -> int:
        together.wait()
        return Bench(tmp_path / str(number), url=postgres_url, shared=True).ledger().study_id

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(enter, range(6)))) == 1


def test_a_server_that_restarts_is_waited_for(
    tmp_path: Path, postgres_server: Any, postgres_url: str
) -> None:
    bench = Bench(tmp_path, url=postgres_url, shared=True, payload=AWAIT, patience=240.0)

    def restart() -> None:
        postgres_server.stop("immediate")
        threads.append(later(5.0, postgres_server.start))

    threads = list[threading.Thread]()
    try:
        with meanwhile(tmp_path, restart):
            controller, done = bench.run()
    finally:
        threads[0].join()
    assert done
    assert set(states(controller).values()) == {"COMPLETE"}
    assert sorted(bench.starts().values()) == [1] * 6


@pytest.mark.parametrize(
    "when", ["FROM studies", "FROM trials", "FROM trial_params", "UPDATE trials", "COMMIT"]
)
def test_a_connection_may_die_in_the_middle_of_an_answer(
    tmp_path: Path, postgres_url: str, when: str
) -> None:
    """Before any statement of a transaction, also where Optuna would try another query with the same connection."""
    study = optuna.create_study(storage=open_storage(postgres_url, tmp_path), study_name="study")
    study.add_trial(optuna.create_trial(params={"x": 1}, distributions=SPACE, value=0.5))
    asked = study.ask(SPACE)
    store: Any = open_storage(postgres_url, tmp_path, Patience(60.0))
    server = sqlalchemy.create_engine(store.inner._backend.url)
    cut = list[int]()

    def cut_off(connection: Any) -> None:
        if not cut:
            cut.append(connection.connection.dbapi_connection.info.backend_pid)
            with server.connect() as other:
                other.execute(sqlalchemy.text(f"SELECT pg_terminate_backend({cut[0]}, 5000)"))

    def before(connection: Any, cursor: object, statement: str, *_: object) -> None:
        if when in statement:
            cut_off(connection)

    sqlalchemy.event.listen(store.inner._backend.engine, "before_cursor_execute", before)
    if when == "COMMIT":
        sqlalchemy.event.listen(store.inner._backend.engine, "commit", cut_off)
    again = optuna.load_study(study_name="study", storage=store)
    assert again.trials[0].params == {"x": 1}
    again.tell(asked.number, 2.0)
    assert cut
    assert [trial.value for trial in again.trials] == [0.5, 2.0]
    server.dispose()
