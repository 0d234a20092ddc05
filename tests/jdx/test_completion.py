"""Tab completion: bash itself runs the script that `-sc install=bash` prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

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


def test_other_shells_and_questions_are_hydra_s() -> None:
    assert completion.asked(["-sc", "install=zsh"])
    assert completion.asked(["--shell-completion", "query=bash"])
    assert not completion.asked(["method=base", "-m"])
    assert completion.script(["-sc", "install=fish"]) is None
    assert "complete -r" in str(completion.script(["-sc", "uninstall=bash"]))
