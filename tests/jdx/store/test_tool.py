"""`python -m jdx.store`: tables, what gc spares, what verify finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from jdx.store import ENTRY, Store, key_of
from jdx.store.tool import DAY, duration, entries, main, size
from tests.jdx.lab import Lab, challenge, lab

__all__ = ["challenge", "lab"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three entries: encode (10 days unused), train with a part (20 days), generate (just used)."""
    store = Store(tmp_path / "store")
    for days, stage, part in ((10, "encode", ""), (20, "train", "0000004"), (0, "generate", "")):
        content = {"stage": stage, "version": 1}
        with store.workspace() as work:
            (work / "a").mkdir()
            (work / "a" / "file.bin").write_bytes(stage.encode() * 100)
            path = store.publish(work / "a", stage, key_of(content), part, name="00", content=content)
        when = time.time() - days * DAY
        os.utime(path / ENTRY, (when, when))
    return store


def command(store: Store, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """Exit code and JSON of a command."""
    code = main([*words, "--root", str(store.root), "--json"])
    return code, json.loads(capsys.readouterr().out)


def stages(store: Store) -> list[str]:
    return [entry.stage for entry in entries(store)]


def test_tables(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    _, listed = command(store, capsys, "ls")
    assert [(one["stage"], one["part"], one["name"]) for one in listed] == [
        ("encode", "", "00"), ("generate", "", "00"), ("train", "0000004", "00"),
    ]  # fmt: skip
    _, used = command(store, capsys, "du")
    assert used["stages"]["train"]["entries"] == 1
    assert used["size"] == sum(p.stat().st_size for p in store.root.rglob("*/**/*") if p.is_file())
    run = [sys.executable, "-m", "jdx.store", "ls", "--root", str(store.root), "--stage", "train"]
    told = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "0000004" in told
    assert "encode" not in told


def test_gc_shows_first_and_removes_what_is_old(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = command(store, capsys, "gc", "--older-than", "15d", "--runs")
    assert (code, told["removed"], [place.split("/")[0] for place in told["entries"]]) == (
        0,
        False,
        ["train"],
    )
    assert stages(store) == ["encode", "generate", "train"]
    command(store, capsys, "gc", "--older-than", "15d", "--runs", "--yes")
    assert stages(store) == ["encode", "generate"]
    assert not list((store.root / "train").iterdir())


def test_gc_by_size_takes_the_longest_unused_but_nothing_fresh(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    _, told = command(store, capsys, "gc", "--max-size", "0", "--runs", "--yes")
    assert [place.split("/")[0] for place in told["entries"]] == ["train", "encode"]
    assert list(told["kept"].values()) == ["used a short while ago, or by a trial that runs"]
    assert stages(store) == ["generate"]


def test_using_an_entry_makes_it_fresh(store: Store) -> None:
    (entry,) = [one for one in entries(store) if one.stage == "encode"]
    assert time.time() - entry.used > 9 * DAY
    store.find(entry.stage, entry.key)
    (entry,) = [one for one in entries(store) if one.stage == "encode"]
    assert time.time() - entry.used < 60


def run_folder(root: Path, store: Store, place: str) -> Path:
    folder = root / "outputs" / "run"
    folder.mkdir(parents=True)
    trial = {"config": {"store": {"root": str(store.root)}}, "entries": {"train": {"00": place}}}
    (folder / "trial.json").write_text(json.dumps(trial))
    return folder


def test_gc_spares_what_run_folders_name_unless_told(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place,) = [entry.place for entry in entries(store) if entry.stage == "train"]
    run_folder(tmp_path, store, place)
    words = ("gc", "--older-than", "5d", "--runs", str(tmp_path / "outputs"), "--yes")
    _, told = command(store, capsys, *words)
    assert told["kept"] == {place: "named by a run folder"}
    assert stages(store) == ["generate", "train"]
    command(store, capsys, *words, "--referenced")
    assert stages(store) == ["generate"]


def test_gc_spares_what_is_locked_and_what_a_running_trial_used(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old,) = [entry for entry in entries(store) if entry.stage == "train"]
    with store.locked("train", [old.key]):
        _, told = command(store, capsys, "gc", "--older-than", "15d", "--runs", "--yes")
    assert told["kept"] == {old.place: "locked by a process that works on it"}
    running = run_folder(tmp_path, store, "")
    (running / "seeds.json").touch()
    began = time.time() - 12 * DAY
    os.utime(running / "seeds.json", (began, began))
    with FileLock(running / ".lock"):
        _, told = command(store, capsys, "gc", "--older-than", "5d", "--runs", str(tmp_path / "outputs"))
        assert [place.split("/")[0] for place in told["entries"]] == ["train"]
    _, told = command(store, capsys, "gc", "--older-than", "5d", "--runs", str(tmp_path / "outputs"))
    assert len(told["entries"]) == 2


def test_verify_finds_changed_bytes_lost_files_and_wrong_keys(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(store, capsys, "verify") == (0, {"checked": 3, "damaged": {}, "repaired": False})
    paths = {entry.stage: store.root / entry.place for entry in entries(store)}
    changed = paths["encode"] / "file.bin"
    changed.write_bytes(b"x" * changed.stat().st_size)
    (paths["train"] / "file.bin").unlink()
    record = json.loads((paths["generate"] / ENTRY).read_text())
    (paths["generate"] / ENTRY).write_text(json.dumps(record | {"content": {"version": 2}}))
    code, told = command(store, capsys, "verify")
    words = {place.split("/")[0]: fault for place, (fault,) in told["damaged"].items()}
    assert code == 1
    assert words["encode"] == "file.bin has other bytes than were published"
    assert words["train"] == "no file.bin"
    assert "not this entry" in words["generate"]
    assert command(store, capsys, "verify", "--repair")[0] == 0
    assert stages(store) == []


def test_lock_files_without_an_entry_go(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with store.locked("train", ["gone", "held"]):
        pass
    held = FileLock(store.root / ".locks" / "train" / "held.lock")
    with held:
        command(store, capsys, "gc", "--older-than", "900d", "--runs", "--yes")
        assert [path.stem for path in (store.root / ".locks" / "train").iterdir()] == ["held"]


def test_words_for_sizes_and_durations() -> None:
    assert (duration("12h"), duration("2w"), size("20GB"), size("1.5GiB")) == (
        43200,
        14 * DAY,
        2 * 10**10,
        3 * 2**29,
    )


def test_a_request_that_says_too_little_is_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "--root", str(store.root)]) == 2
    assert "--older-than 30d" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["gc", "--older-than", "30", "--root", str(store.root)])
    assert "12h, 30d or 2w" in capsys.readouterr().err


def test_a_store_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["du", "--root", str(tmp_path / "none")]) == 2
    assert "none is no folder" in capsys.readouterr().err


def test_every_stages_key_holds_the_version_of_its_code(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.run("method=styleid_db", "method.styleid.steps=3", "method.prior.weight=1", "method.prior.per_word=1")
    store = Store(lab.root / "store")
    found = list(entries(store))
    assert {"encode", "train", "generate", "stylise"} <= {entry.stage for entry in found}
    for entry in found:
        content = json.loads((store.root / entry.place / ENTRY).read_text())["content"]
        assert isinstance(content["version"], int), entry.place
        assert key_of(content) == entry.key
        assert key_of(content | {"version": content["version"] + 1}) != entry.key
    assert command(store, capsys, "verify")[1]["damaged"] == {}
