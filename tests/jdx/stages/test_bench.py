"""How a stage uses the store: what it hands over is put there while it goes on, and is there whatever ends it."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from jdx.progress import NullProgress
from jdx.stages.bench import Bench, Publish, make
from jdx.store import Store

NAMES = ("00", "01", "02")
PATIENCE = 60.0  # seconds after which a test gives up


def bench(root: Path) -> Bench:
    """The part of a trial's tools that `make` needs for a stage without the model."""
    nothing = cast(Any, None)
    return Bench(nothing, nothing, nothing, Store(root), NullProgress(), nothing, nothing, {})


def contents() -> dict[str, dict[str, str]]:
    return {name: {"of": name} for name in NAMES}


def written(work: Path, name: str) -> Path:
    folder = work / name
    folder.mkdir()
    (folder / "file").write_text(name)
    return folder


def test_a_stage_goes_on_while_its_folders_are_put_into_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, built = Store.publish, threading.Event()

    def late(self: Store, folder: Path, stage: str, key: str, part: str = "", **record: Any) -> Path:
        assert built.wait(PATIENCE)
        return publish(self, folder, stage, key, part, **record)

    def build(names: list[str], work: Path, publish: Publish) -> None:
        for name in names:
            publish(name, written(work, name))
        built.set()

    monkeypatch.setattr(Store, "publish", late)
    found = make(bench(tmp_path), "stage", 1, contents(), build, model=False)
    assert {name: (folder / "file").read_text() for name, folder in found.items()} == {n: n for n in NAMES}


def test_what_was_handed_over_before_a_failure_is_kept(tmp_path: Path) -> None:
    def broken(names: list[str], work: Path, publish: Publish) -> None:
        for name in names[:2]:
            publish(name, written(work, name))
        raise MemoryError

    def rest(names: list[str], work: Path, publish: Publish) -> None:
        again.extend(names)
        for name in names:
            publish(name, written(work, name))

    again: list[str] = []
    with pytest.raises(MemoryError):
        make(bench(tmp_path), "stage", 1, contents(), broken, model=False)
    assert list(make(bench(tmp_path), "stage", 1, contents(), rest, model=False)) == list(NAMES)
    assert again == ["02"]


def test_a_full_disk_is_the_stages_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    def build(names: list[str], work: Path, publish: Publish) -> None:
        publish(names[0], written(work, names[0]))

    monkeypatch.setattr(Store, "publish", full)
    with pytest.raises(OSError, match="No space left"):
        make(bench(tmp_path), "stage", 1, contents(), build, model=False)


def test_names_of_the_same_content_share_a_folder(tmp_path: Path) -> None:
    def build(names: list[str], work: Path, publish: Publish) -> None:
        for folder in [written(work, name) for name in names]:
            (folder / "file").write_text("same")
            publish(folder.name, folder)

    same = {f"{number:02}": {"of": "all"} for number in range(20)}
    found = make(bench(tmp_path), "stage", 1, same, build, model=False)
    assert list(found) == list(same)
    (folder,) = set(found.values())
    assert (folder / "file").read_text() == "same"
    assert not [path for path in (tmp_path / ".work").iterdir() if path.is_dir()]
