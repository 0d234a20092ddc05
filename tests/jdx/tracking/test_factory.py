"""`tracker=none` costs nothing, other names are refused, and keys are found where W&B keeps them."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jdx.tracking import NoTracker, RunInfo, make_tracker

ROOT = Path(__file__).parents[3]


def _config(name: str) -> Any:
    return SimpleNamespace(name=name)


def test_none_imports_no_wandb() -> None:
    program = """
import sys
from pathlib import Path
from types import SimpleNamespace
from jdx.tracking import RunInfo, make_tracker
tracker = make_tracker(SimpleNamespace(name="none"))
tracker.start(RunInfo("x", Path()))
tracker.log_losses(1, {"00": 0.1})
tracker.log_style("00", {"hist": 0.1})
tracker.finish(metrics={}, run_dir=Path(), status="finished")
tracker.close()
print(sorted({"wandb", "torch", "PIL"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout == "[]\n"


def test_no_tracker_takes_everything(tmp_path: Path) -> None:
    tracker = make_tracker(_config("none"))
    assert isinstance(tracker, NoTracker)
    tracker.start(RunInfo("x", tmp_path))
    tracker.finish(metrics={"final_score": 1.0}, run_dir=tmp_path, status="finished")
    assert list(tmp_path.iterdir()) == []


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match="none, wandb"):
        make_tracker(_config("mlflow"))


@pytest.mark.parametrize(
    ("variable", "netrc", "found"),
    [
        ("WANDB_API_KEY", "", True),
        ("WANDB_IDENTITY_TOKEN_FILE", "", True),
        (None, "machine wandb.example login user password {key}\n", True),
        (None, "machine elsewhere.example login user password {key}\n", False),
        (None, "this is no netrc\n", False),
        (None, "", False),
    ],
)
def test_keys_are_found_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, netrc: str, found: bool
) -> None:
    from jdx.tracking import wandb_tracker

    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "a" * 40)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text(netrc.format(key="a" * 40))
    settings = SimpleNamespace(api_key=None, base_url="https://wandb.example/api")
    monkeypatch.setattr("wandb.setup", lambda: SimpleNamespace(settings=settings))
    assert wandb_tracker.has_api_key() is found
