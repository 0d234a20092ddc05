"""A disk's failures are sentences, a program's are not."""

import errno
import os
from pathlib import Path

import pytest

from jdx.disk import told
from jdx.errors import BackendError


def test_full_disk_says_where_and_how_much_is_free(tmp_path: Path) -> None:
    with pytest.raises(BackendError) as caught, told({"store": tmp_path / "not" / "yet"}):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/file")
    text = str(caught.value)
    assert "No space left on device: /some/file" in text
    assert f"store {tmp_path / 'not' / 'yet'}" in text
    assert "GiB free" in text
    assert "make room" in text


def test_missing_file_is_a_fault_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), told({"store": tmp_path}):
        (tmp_path / "gone").read_text()
