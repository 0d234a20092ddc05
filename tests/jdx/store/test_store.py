"""The store: complete or absent, one maker at a time, nothing claimed ever vanishes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from jdx.errors import ConfigError
from jdx.store import Store, canonical, key_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, text: str, key: str = "k", part: str = "") -> Path:
    with store.workspace() as work:
        folder = work / "made"
        folder.mkdir()
        (folder / "text").write_text(text)
        return store.publish(folder, "stage", key, part, content={"text": text})


def test_equal_content_has_one_key_whatever_its_order() -> None:
    assert key_of({"a": 1, "b": [1.5, None]}) == key_of({"b": [1.5, None], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})


def test_what_cannot_be_written_down_cannot_be_a_key() -> None:
    with pytest.raises(TypeError, match="store key"):
        canonical({"a": object()})
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})


def test_entry_is_found_only_when_published(store: Store) -> None:
    assert store.find("stage", "k") is None
    path = put(store, "hello")
    assert store.find("stage", "k") == path
    assert (path / "text").read_text() == "hello"
    assert json.loads((path / "entry.json").read_text())["content"] == {"text": "hello"}


def test_first_of_two_makers_wins(store: Store) -> None:
    put(store, "first")
    path = put(store, "second")
    assert (path / "text").read_text() == "first"


def test_parts_are_listed_in_order(store: Store) -> None:
    for part in ("0000800", "0000500"):
        put(store, part, part=part)
    assert store.parts("stage", "k") == ["0000500", "0000800"]
    assert store.parts("stage", "unknown") == []


def test_claimed_entry_survives_a_discard_of_the_unclaimed(store: Store) -> None:
    path = put(store, "kept")
    assert store.claim("stage", "k") == path
    store.discard("stage", "k", unclaimed=True)
    assert (path / "text").read_text() == "kept"
    store.discard("stage", "k")
    assert store.find("stage", "k") is None
    assert store.claim("stage", "k") is None
    store.discard("stage", "k")  # once more is no error


def test_workspace_is_gone_afterwards_even_after_an_error(store: Store) -> None:
    def fail() -> None:
        with store.workspace() as work:
            (work / "half").write_text("x")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert list((store.root / ".work").iterdir()) == []


def test_workspace_of_a_killed_process_is_removed_and_one_in_use_is_not(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import time
        from jdx.store import Store
        with Store({str(tmp_path)!r}).workspace() as work:
            (work / "half").write_text("x")
            print("ready", flush=True)
            time.sleep(60)
    """)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        Store(tmp_path)
        assert len([p for p in (tmp_path / ".work").iterdir() if p.is_dir()]) == 1
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        Store(tmp_path)
        assert list((tmp_path / ".work").iterdir()) == []
    finally:
        child.kill()
        child.wait()


def _make_once(root: str, log: str) -> None:
    store = Store(root)
    with store.locked("stage", ["k"]):
        if store.find("stage", "k") is None:
            with open(log, "a") as file:
                file.write("made\n")
            time.sleep(0.2)
            put(store, "x")


def test_processes_at_once_make_a_thing_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    makers = [context.Process(target=_make_once, args=(str(tmp_path / "s"), str(log))) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert [maker.exitcode for maker in makers] == [0, 0, 0]
    assert log.read_text() == "made\n"


@pytest.mark.parametrize("harm", ["cut", "lost", "entry", "entry gone", "foreign entry"])
def test_damaged_entry_is_said_dropped_and_can_be_made_again(
    store: Store, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(store, "hello")
    if harm == "cut":
        (path / "text").write_text("hel")
    elif harm == "lost":
        (path / "text").unlink()
    elif harm == "entry gone":
        (path / "entry.json").unlink()
    else:
        (path / "entry.json").write_text('{"stage": "sta' if harm == "entry" else "[1]")
    assert (put(store, "again") / "text").read_text() == "again"
    assert "damaged" in caplog.text
    assert str(path) in caplog.text
    assert store.find("stage", "k") == path
    assert list((store.root / ".work").iterdir()) == []


def test_damaged_part_is_no_part_and_harms_no_other(store: Store) -> None:
    first, second = (put(store, text, part=text) for text in ("0000500", "0000800"))
    (first / "text").unlink()
    assert store.find("stage", "k") is None  # the entry of parts is no entry, and is left alone
    assert store.parts("stage", "k") == ["0000800"]
    assert not first.exists()
    assert second.is_dir()


def test_root_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"store\.root"):
        Store(tmp_path / "file" / "store")
