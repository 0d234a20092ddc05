"""Private folders: in use they stay, whoever looks; those of killed processes go."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from jdx import ROOT
from jdx.workspaces import lock_of, sweep, workspace


def folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir()]


def test_it_is_private_and_gone_in_the_end_with_its_lock(tmp_path: Path) -> None:
    with workspace(tmp_path / "one", mode=0o700) as folder:
        (folder / "half").write_text("x")
        assert folder.stat().st_mode & 0o777 == 0o700
        sweep([folder])
        assert (folder / "half").read_text() == "x"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(FileExistsError), workspace(tmp_path / "one"):
        pass
    assert (tmp_path / "one").is_dir()


def test_it_is_held_before_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else starts as soon as the folder can be seen."""
    real = Path.mkdir

    def mkdir(path: Path, *words: Any, **more: Any) -> None:
        real(path, *words, **more)
        if path == tmp_path / "one":
            sweep([path])

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with workspace(tmp_path / "one") as folder:
        assert folder.is_dir()


def test_what_cannot_be_removed_now_is_removed_at_a_later_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with workspace(tmp_path / "one") as folder:
        monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors: None)
    assert lock_of(folder).exists()
    monkeypatch.undo()
    sweep(folders(tmp_path))
    assert list(tmp_path.iterdir()) == []


STARTS = """
    import os, signal, sys, uuid
    from pathlib import Path
    from jdx.workspaces import sweep, workspace

    root = Path(sys.argv[1])

    def new():
        return workspace(root / uuid.uuid4().hex)

    def start():
        sweep(path for path in root.iterdir() if path.is_dir())

    for number in range(25):
        child = os.fork()
        if not child:
            with new():
                os.kill(os.getpid(), signal.SIGKILL)
        start()
        with new() as ours:
            (ours / "half").write_text("x")
            start()
            assert (ours / "half").read_text() == "x"
        os.waitpid(child, 0)
"""


def test_many_that_start_at_once_remove_what_the_killed_ones_left_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(STARTS), str(tmp_path)]
    starting = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [one.communicate()[1] for one in starting]
    assert [one.returncode for one in starting] == [0, 0, 0], "".join(told)
    sweep(folders(tmp_path))
    assert folders(tmp_path) == []
