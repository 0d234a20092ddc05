"""What `make` does where Python cannot make virtual environments; nothing is installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jdx import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(checkout: Path, **env: str) -> tuple[int, str]:
    words = ["make", "-C", str(checkout), f"PYTHON={sys.executable}", ".venv/.installed"]
    done = subprocess.run(words, env=os.environ | env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("broken", ["ensurepip", "venv"])
def test_without_the_venv_package_nothing_is_left_behind(checkout: Path, tmp_path: Path, broken: str) -> None:
    """Debian's python3 has no ensurepip until python3-venv is installed."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"{broken}.py").write_text(f"raise ModuleNotFoundError('No module named {broken}')")
    code, said = make(checkout, PYTHONPATH=str(hidden))
    assert code != 0
    assert "apt-get install python3-venv" in said
    assert not (checkout / ".venv").exists()


def test_an_environment_that_cannot_be_finished_is_removed(checkout: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    text = "from pathlib import Path\nPath('.venv/bin').mkdir(parents=True)\nraise SystemExit(1)\n"
    (hidden / "venv.py").write_text(
        f"if __name__ == '__main__':\n    {text.replace(chr(10), chr(10) + '    ')}"
    )
    code, said = make(checkout, PYTHONPATH=str(hidden))
    assert code != 0
    assert "cannot make virtual environments" in said
    assert not (checkout / ".venv").exists()


def test_an_environment_without_pip_is_told_and_kept(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    code, said = make(checkout)
    assert code != 0
    assert "has no pip: remove it (make clean)" in said
    assert python.exists()
