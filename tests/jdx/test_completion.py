"""Tab completion: the shells themselves run the scripts that `-sc install=SHELL` prints."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from jdx import ROOT, completion

COMPLETE = """eval "$(%s -m jdx.train -sc install=bash)"
COMP_LINE=$1 COMP_POINT=${#1}
_jdx_train
echo "${COMPREPLY[*]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("-m jdx.train debug=tiny method=style", "method=styleid method=styleid_db"),
        ("-m jdx.train -m lora.ra", "lora.rank="),
        ("-m json.tool fi", ""),
    ],
)
def test_bash_completes_groups_options_and_settings(typed: str, expected: str) -> None:
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE % sys.executable, "bash", f"{sys.executable} {typed}"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == expected
    assert done.stderr == ""


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """A shell's: `python` is this one, and its home is empty but for a folder `a b`."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "set" / "a b").mkdir(parents=True)
    path = f"{python.parent}:{os.environ['PATH']}"
    home = dict.fromkeys(("HOME", "ZDOTDIR"), str(tmp_path))
    return {**os.environ, **home, "PYTHONPATH": str(ROOT), "PATH": path, "TERM": "dumb"}


def fish(script: str, surroundings: dict[str, str]) -> list[str]:
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        cwd=ROOT, env=surroundings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes_them_too_and_forgets_it(surroundings: dict[str, str]) -> None:
    home = surroundings["HOME"]
    expected = {
        "python -m jdx.train debug=tiny method=style": ["method=styleid", "method=styleid_db"],
        "A=b ~/bin/python -m jdx.train -m lora.ra": ["lora.rank="],
        f"python -m jdx.train data.root={home}/set/": [f"data.root={home}/set/a b/"],
        "python -m json.tool READ": ["README.md"],
    }
    asks = "".join(f"complete -C '{typed}'; echo; " for typed in expected)
    switched = "python -m jdx.train -sc {}install=fish | source; "
    forgotten = switched.format("un") + "complete -C 'python -m jdx.train lora.ra'"
    assert fish(switched.format("") + asks + forgotten, surroundings) == [
        line for lines in expected.values() for line in [*lines, ""]
    ]


ZSH = r"""
PS1= PS2= RPS1=
autoload -Uz compinit && compinit -D -u
{install}
tell() {{ print -rn -- "$BUFFER" > $HOME/told.part; mv $HOME/told.part $HOME/told }}
zle -N tell
bindkey '^I' expand-or-complete
bindkey '^T' tell
: > $HOME/ready
"""


def zsh(typed: str, install: str, surroundings: dict[str, str]) -> str:
    """The line after a tab, in an interactive zsh on a terminal."""
    home = Path(surroundings["HOME"])
    (home / ".zshrc").write_text(ZSH.format(install=install))
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "--no-globalrcs", "-i"],
        cwd=ROOT, env=surroundings, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    try:
        os.close(theirs)
        appears(home / "ready")
        while termios.tcgetattr(ours)[3] & termios.ICANON:  # until its editor reads
            time.sleep(0.02)
        os.write(ours, f"{typed}\t\x14".encode())
        return appears(home / "told").read_text()
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def appears(path: Path, patience: float = 120.0) -> Path:
    deadline = time.monotonic() + patience
    while not path.exists():
        assert time.monotonic() < deadline, path.name
        time.sleep(0.02)
    return path


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("python -m jdx.train debug=tiny method=st", "python -m jdx.train debug=tiny method=styleid"),
        ("A=b ~/bin/python -m jdx.train -m lora.ra", "A=b ~/bin/python -m jdx.train -m lora.rank="),
        ("python -m jdx.train data.root={home}/se", "python -m jdx.train data.root={home}/set"),
        ("python -m jdx.train data.root={home}/set/", "python -m jdx.train data.root={home}/set/a\\ b"),
        ("python -m json.tool READ", "python -m json.tool README.md "),
    ],
)
def test_zsh_completes_them_too(typed: str, expected: str, surroundings: dict[str, str]) -> None:
    home = surroundings["HOME"]
    assert zsh(typed.format(home=home), completion.ZSH, surroundings) == expected.format(home=home)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_forgets_it(surroundings: dict[str, str]) -> None:
    both = f"{completion.ZSH}\n{completion.SCRIPTS['uninstall=zsh']}"
    assert zsh("python -m jdx.train lora.ra", both, surroundings) == "python -m jdx.train lora.ra"


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("python -m jdx.train method=st", "jdx method=st"),
        ("~/a/.venv/bin/python  -m  jdx.train -m --cfg job sweep=", "jdx job sweep="),
        ("python -m jdx.train ", "jdx "),
    ],
)
def test_hydra_sees_settings_alone(line: str, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    completion.trim()
    assert os.environ["COMP_LINE"] == left


def test_what_is_not_about_the_three_shells_is_hydra_s() -> None:
    assert completion.asked(["-sc", "install=zsh"])
    assert completion.asked(["--shell-completion", "query=bash"])
    assert not completion.asked(["method=base", "-m"])
    assert completion.script(["-sc", "query=fish"]) is None
    assert "complete -r" in str(completion.script(["-sc", "uninstall=bash"]))
