"""Weights & Biases mirrors a run, and none of its faults costs the trial.

All runs are made at once, each in a process of its own; servers are on the loopback. That nothing waits for
ever is shown by the processes ending at all: left to itself, W&B waits without end for a server gone silent.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import TypeAdapter

from jdx.schema import Tracker
from jdx.tracking import RunInfo
from tests.jdx.run_folders import metrics
from tests.jdx.tracking.fake_server import half_dead_server
from tests.jdx.tracking.mirror_run import STEPS

ROOT = Path(__file__).parents[3]
KEY = "a" * 40
LIMIT = 300
"""Seconds until a hanging process is given up."""


@dataclass(frozen=True)
class Mirrored:
    """What is left of one process: its exit code, its words, its run folder, what the server was told."""

    code: int
    output: str
    errors: str
    run: Path
    accepted: list[dict[str, Any]]

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.errors.splitlines() if line.startswith("WARNING")]


def start(root: Path, mode: str, url: str, *flags: str, key: str | None = None) -> subprocess.Popen[str]:
    hidden = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    env = {**hidden, "HOME": str(root), "PYTHONPATH": str(ROOT), "WANDB_BASE_URL": url}
    if key:
        env["WANDB_API_KEY"] = key
    command = [sys.executable, "-m", "tests.jdx.tracking.mirror_run", str(root), mode, *flags]
    return subprocess.Popen(
        command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _kill(process: subprocess.Popen[str]) -> None:
    """End what is left of a process and the service that it started, which has a session of its own."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Mirrored]]:
    """Every case's outcome."""
    roots = {name: tmp_path_factory.mktemp(name) for name in CASES}
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, never answers
    refused = "http://127.0.0.1:9"  # the discard port: nobody listens
    with silent, half_dead_server() as (half_dead, accepted):
        urls = {"silent": f"http://127.0.0.1:{silent.getsockname()[1]}", "lost": half_dead}
        started = {}
        for name, (mode, key, flags) in CASES.items():
            started[name] = start(roots[name], mode, urls.get(name, refused), *flags, key=key)
        outcomes = {}
        for name, process in started.items():
            try:
                output, errors = process.communicate(timeout=LIMIT)
            finally:
                _kill(process)
            outcomes[name] = Mirrored(process.returncode, output, errors, roots[name] / "run", accepted)
        yield outcomes


CASES: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "no key": ("auto", None, ()),
    "online without key": ("online", None, ()),
    "offline with key": ("offline", KEY, ()),
    "malformed key": ("auto", "short", ()),
    "refused": ("auto", KEY, ("--init=4",)),
    "silent": ("auto", KEY, ("--init=4",)),
    "lost": ("online", KEY, ("--begun", "--finish=20")),
    "unwritable": ("offline", None, ("--unwritable",)),
    "stopped": ("offline", None, ("--stopped", "--finish=4")),
}
"""Mode, key and flags: a limit is short where it is to run out. "lost" has half of 20 s for what does not hang."""
WARNED = {
    "no key": None,
    "online without key": "no API key",
    "offline with key": None,
    "malformed key": "AuthenticationError",
    "refused": "CommError",
    "silent": "CommError",
    "lost": "did not answer",
    "unwritable": "the record stays in",
    "stopped": "did not answer",
}


def transactions(run: Path, kind: str) -> Path:
    found = sorted((run / "wandb").glob(f"{kind}-*/*.wandb"))
    assert len(found) == 1
    return found[0]


def inspect(path: Path, *flags: str) -> str:
    """W&B's own reader of its log, of an unfinished one too."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *flags, "--json", path.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT, cwd=path.parent)
    return done.stdout


@pytest.mark.parametrize("name", CASES)
def test_no_fault_costs_the_trial(mirrored: Mapping[str, Mirrored], name: str) -> None:
    outcome = mirrored[name]
    assert outcome.output == "the trial goes on\n"
    assert outcome.code == 0
    assert "Traceback" not in outcome.errors


@pytest.mark.parametrize("name", CASES)
def test_each_fault_is_said_once(mirrored: Mapping[str, Mirrored], name: str) -> None:
    warnings = mirrored[name].warnings
    expected = WARNED[name]
    assert len(warnings) == (0 if expected is None else 1)
    assert expected is None or expected in warnings[0]


@pytest.mark.parametrize(
    "name", ["no key", "online without key", "offline with key", "malformed key", "refused", "silent"]
)
def test_the_offline_record_has_the_scores(mirrored: Mapping[str, Mirrored], name: str) -> None:
    found = json.loads(inspect(transactions(mirrored[name].run, "offline-run"), "--summary"))
    summary = found["summary"]
    expected = metrics()
    for key in ("final_score", "hist", "dino", "lpips", "fid", "clip_iqa", "clip_r", "style_part"):
        assert summary[key] == expected[key]
    assert summary["status"] == "finished"
    assert (found["state"], found["exit_code"], found["name"]) == ("finished", 0, "first")
    assert found["config"] == {"lora": {"rank": 32}}


def test_the_offline_record_has_losses_styles_pictures_and_adapters(mirrored: Mapping[str, Mirrored]) -> None:
    path = transactions(mirrored["no key"].run, "offline-run")
    records = [json.loads(line) for line in inspect(path).splitlines()]
    text = json.dumps(records)
    for step in range(1, STEPS + 1):
        row = _row(records, step)
        assert row["train/loss/00"] == pytest.approx(0.1 * step)
        assert row["train/loss/01"] == pytest.approx(0.3)
        assert row["train/loss"] == pytest.approx((0.1 * step + 0.3) / 2)
    summary = json.loads(inspect(path, "--summary"))["summary"]
    assert summary["styles/00/hist"] == 0.625
    assert summary["train/step"] == STEPS  # what came after `close` is not there
    assert '"study"' in text  # the group
    media = path.parent / "files" / "media"
    sheets = sorted((media / "images" / "pictures").glob("*.jpg"))
    assert [sheet.name[:2] for sheet in sheets] == ["00", "01"]
    table = json.loads(next((media / "table").glob("*.json")).read_text())
    assert table["columns"] == ["style", "dino", "hist", "lpips", "clip_iqa", "clip_r", "n_pictures"]
    assert [row[0] for row in table["data"]] == ["00", "01"]
    assert table["data"][0][2] == metrics()["styles"]["00"]["hist"]
    assert "pytorch_lora_weights.safetensors" in text or '"adapters"' in text


def _row(records: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """The history row with this training step, whatever the reader's layout."""
    for record in records:
        for row in _dicts(record):
            if row.get("train/step") == step and "train/loss" in row:
                return row
    raise AssertionError(f"no history row of step {step}")


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for below in value.values():
            yield from _dicts(below)
    elif isinstance(value, list):
        for below in value:
            yield from _dicts(below)


def test_a_server_lost_in_mid_run_leaves_a_record_to_send_later(mirrored: Mapping[str, Mirrored]) -> None:
    outcome = mirrored["lost"]
    assert len(outcome.accepted) == 1  # the run did begin online
    assert outcome.accepted[0]["groupName"] == "study"
    assert outcome.accepted[0]["jobType"] == "trial"
    found = json.loads(inspect(transactions(outcome.run, "run"), "--summary"))
    assert found["summary"]["final_score"] == metrics()["final_score"]


def test_an_unwritable_folder_is_left_as_it_is(mirrored: Mapping[str, Mirrored]) -> None:
    assert (mirrored["unwritable"].run / "wandb").read_text() == "a file where the folder should be"


def test_a_run_offline_waits_for_no_server_and_so_is_not_given_up_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's own service on a busy machine takes longer than a server may that does not answer."""
    from jdx.tracking import wandb_tracker

    asked = []
    monkeypatch.setattr("wandb.init", lambda **words: asked.append(words["settings"]))
    tracker = wandb_tracker.WandbTracker(
        TypeAdapter(Tracker).validate_json('{"name": "wandb", "init_timeout": 4.0}')
    )
    tracker._init(RunInfo("first", tmp_path), "online")
    tracker._init(RunInfo("first", tmp_path), "offline")
    assert [settings.init_timeout for settings in asked] == [4.0, wandb_tracker.SERVICE]


def test_the_style_table_has_the_columns_of_all_styles() -> None:
    """The first style may lack a number that others have."""
    from jdx.tracking.wandb_tracker import _style_table

    table = _style_table({"01": {"hist": 0.5, "fid_without": 2.0, "pictures": {}}, "00": {"hist": 0.4}})
    assert table.columns == ["style", "hist", "fid_without"]
    assert table.data == [["00", 0.4, None], ["01", 0.5, 2.0]]
