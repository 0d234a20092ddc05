"""The command itself, in a process of its own: what a user sees when something is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jdx import ROOT


def typed(folder: Path, *words: str) -> tuple[int, str]:
    """Exit status and output of the command."""
    command = [sys.executable, "-m", "jdx.train", "tracker=none", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    env.pop("HYDRA_FULL_ERROR", None)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_config_can_be_shown(tmp_path: Path) -> None:
    code, text = typed(tmp_path, "lora.rank=3", "--cfg", "job", "data.root=/数据/A (1)", "data=challenge")
    assert code == 0
    assert "root: /数据/A (1)" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("lora.rank=${nope}",), "Interpolation key 'nope' not found"),
        (("lora.rank",), "has no value: lora.rank=VALUE"),
        (("data=challenge", "data.root=/nowhere"), "/nowhere: does not exist"),
        (("hydra.run.dir=file/x",), "Not a directory: 'file/x'\nRuns write below the current folder"),
        (("data.root=file/x",), "data.root = "),
        (("-m", "lora.rank=1,2", "--cfg", "job"), "-m\n      shows nothing with --cfg"),
        (("-cp", "nowhere", "-cn", "config"), "nowhere' exists"),
        (("store.root=file/x",), "store.root = file/x"),
        (("data=challenge", "data.root=", "train.steps=1e3"), "must be a whole number"),
        (("lora.rank=-1",), "1 fault in the configuration:\n  - lora.rank = -1"),
    ],
)
def test_faults_are_told_without_a_traceback(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    (tmp_path / "file").touch()
    code, text = typed(tmp_path, *words)
    assert code == 2
    assert told in text
    assert "Traceback" not in text


def test_a_launcher_without_its_cluster_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, text = typed(tmp_path, "-m", "lora.rank=1,2", "launcher=slurm")
    assert code == 2
    assert "there is no sbatch, srun" in text
    assert "the same command goes on" in text
    assert "Traceback" not in text


def test_wrong_path_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    script = (
        "import runpy, sys\n"
        "try: runpy.run_module('jdx.train', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: print('torch' in sys.modules, 'transformers' in sys.modules, end.code)\n"
    )
    words = [f"hydra.run.dir={tmp_path}", "data=challenge", "data.root=/nowhere", "tracker=none"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"HYDRA_FULL_ERROR": "0"},
    )  # fmt: skip
    assert done.stdout.split() == ["False", "False", "2"]


def test_a_trial_says_what_it_is_before_it_loads_anything(tmp_path: Path) -> None:
    """Loading takes many seconds, after which this one finds no model."""
    code, text = typed(
        tmp_path, "method=base", "data.styles=[00,01]", "model.path=/nowhere", "hydra.run.dir=mine"
    )
    assert code == 2
    said = text.index("base on sample, mini: 2 styles, run folder mine; PyTorch is being loaded")
    assert said < text.index("model.path = /nowhere")
