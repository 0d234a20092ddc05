"""Files are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jdx.files import write_bytes, write_text


def test_content_and_line_ends_arrive_as_they_are(tmp_path: Path) -> None:
    write_text(tmp_path / "made" / "a.txt", "zwölf\r\nlines\n")
    assert (tmp_path / "made" / "a.txt").read_bytes() == "zwölf\r\nlines\n".encode()
    write_bytes(tmp_path / "made" / "a.txt", b"new")
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["a.txt"]
    assert (tmp_path / "made" / "a.txt").read_bytes() == b"new"


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    write_text(tmp_path / "a.txt", "old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"os.{fails}" if fails == "fsync" else f"pathlib.Path.{fails}", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.txt", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    name = "x" * os.pathconf(tmp_path, "PC_NAME_MAX")
    write_text(tmp_path / name, "long")
    assert (tmp_path / name).read_text() == "long"
