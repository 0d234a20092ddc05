"""`python -m jdx.backends.jittor`: what it says when something is wrong."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from jdx.backends.jittor import __main__ as command
from jdx.backends.jittor.environment import Environment
from jdx.progress import Progress


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Its exit code, or None when it ends well."""
    monkeypatch.setattr("sys.argv", ["jittor", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return ended.value.code


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:one"])
def test_a_misspelt_device_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    assert run(monkeypatch, "--device", device) == 2
    assert f"{device!r} is none of auto, cpu, cuda and cuda:N" in capsys.readouterr().err


def test_faults_are_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    place = ("--home", str(tmp_path / "file" / "home"))
    assert run(monkeypatch, "--device", "cpu", "--python", "/nowhere/python", *place) == 2
    told = capsys.readouterr().err
    assert "2 faults" in told
    assert "/nowhere/python" in told
    assert "is no folder" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/h/x"), 2, "GiB free); --home names another"),
        (KeyboardInterrupt(), 130, "The same command goes on"),
    ],
    ids=["disk", "interrupt"],
)
def test_a_full_disk_and_an_interrupt_are_told_too(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def fails(self: Environment, progress: Progress) -> None:
        raise error

    monkeypatch.setattr(Environment, "ready", fails)
    assert run(monkeypatch, "--home", str(tmp_path)) == code
    assert said in capsys.readouterr().err
