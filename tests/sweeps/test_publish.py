"""Publishing to W&B: the same run under the same id however often; read back from what W&B wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jdx.schema import plain
from jdx.tracking.record import RECORD_KEY, safe_id, safe_tags, tags_of
from jdx.validation import build
from sweeps.leaderboard.boards import make_boards
from sweeps.leaderboard.sources import gather, gather_wandb
from sweeps.publish import MARK, found, main, run_info
from tests.configs import compose_plain
from tests.jdx.tracking.fake_server import half_dead_server
from tests.jdx.tracking.test_wandb_tracker import KEY, LIMIT, inspect
from tests.sweeps.scored_runs import make_about, put_run

SWEEP = {"study": "lora-1a2b", "trial": 7, "attempt": 1, "seed": None, "id": "lora-1a2b-7-1"}


@pytest.fixture(autouse=True)
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No account of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def logs(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("offline-run-*/*.wandb"))


@pytest.fixture
def published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """A run folder of a sweep, published offline, and what was said."""
    run = put_run(tmp_path / "sweep" / "7", about={"sweep": SWEEP})
    (run / "losses.csv").write_text("style,step,loss\n00,10,0.5\n01,10,0.3\n00,20,0.4\n")
    assert main([str(tmp_path / "sweep"), "--project", "p"]) == 0
    return run, capsys.readouterr().out


def test_a_published_run_says_who_it_is_and_what_it_scored(published: tuple[Path, str]) -> None:
    run, said = published
    assert "wandb sync" in said
    (log,) = logs(run)
    whole = json.loads(inspect(log, "--summary"))
    metrics = json.loads((run / "metrics.json").read_text())
    assert (whole["run_id"], whole["project"], whole["state"]) == ("lora-1a2b-7-1", "p", "finished")
    assert whole["summary"]["final_score"] == metrics["final_score"]
    assert whole["summary"]["seconds/train"] == 100.0
    assert whole["summary"]["styles/03/hist"] == metrics["styles"]["03"]["hist"]
    begun = next(json.loads(line)["run"] for line in inspect(log).splitlines() if '"type":"run"' in line)
    assert (begun["run_group"], begun["job_type"]) == ("lora-1a2b", "trial")
    assert sorted(begun["tags"]) == ["dreambooth", "judges:mini", "mini"]
    defined = [
        json.loads(line) for line in inspect(log).splitlines() if "final_score" in line and "metric" in line
    ]
    assert any(one.get("metric", {}).get("name") == "final_score" for one in defined)


def test_the_leaderboard_ranks_a_published_run_as_its_folder(published: tuple[Path, str]) -> None:
    """What W&B has been given, through the summary, is what the folder says."""
    run, _ = published
    text = json.loads(inspect(logs(run)[0], "--summary"))["summary"][RECORD_KEY]
    mirrored = SimpleNamespace(path=["me", "p", "x"], state="finished", summary={RECORD_KEY: text})
    here, there = gather([str(run)]), gather([])
    gather_wandb("me/p", there, SimpleNamespace(runs=lambda project: [mirrored]))
    one, other = (make_boards(some.runs, draws=200)[0][0] for some in (here, there))
    assert (one.key, one.rows[0].score, one.rows[0].interval) == (
        other.key,
        other.rows[0].score,
        other.rows[0].interval,
    )
    assert one.rows[0].recipe.digest == other.rows[0].recipe.digest
    both = gather([str(run)])
    gather_wandb("me/p", both, SimpleNamespace(runs=lambda project: [mirrored]))
    assert [copy.name for copy in make_boards(both.runs, draws=200)[1]] == ["W&B me/p/x"]


def test_publishing_again_does_nothing_unless_asked_or_changed(
    published: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = published
    assert main([str(run), "--project", "p"]) == 0
    assert "there already" in capsys.readouterr().out
    assert len(logs(run)) == 1
    time.sleep(1.1)  # W&B names its folders by the second
    assert main([str(run), "--project", "p", "--again"]) == 0
    assert {json.loads(inspect(log, "--summary"))["run_id"] for log in logs(run)} == {"lora-1a2b-7-1"}
    assert len(logs(run)) == 2
    (run / MARK).write_text("{torn")
    time.sleep(1.1)
    assert main([str(run), "--project", "p"]) == 0
    assert len(logs(run)) == 3


def test_a_later_sync_sends_the_run_under_its_id(published: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = published
    with half_dead_server() as (url, accepted):
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "WANDB_API_KEY": KEY, "WANDB_BASE_URL": url}
        command = [sys.executable, "-m", "wandb", "sync", str(logs(run)[0].parent)]
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            end = time.monotonic() + LIMIT
            while not accepted and process.poll() is None and time.monotonic() < end:
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    assert (accepted[0]["name"], accepted[0]["groupName"]) == ("lora-1a2b-7-1", "lora-1a2b")
    assert accepted[0]["project"] == "p"


def test_ids_stay_the_same_and_differ_between_runs(tmp_path: Path) -> None:
    told = make_about(seed=1)
    one = run_info(tmp_path / "a", told).id
    assert run_info(tmp_path / "b", told).id == one
    assert run_info(tmp_path / "a", make_about(seed=2)).id != one
    (tmp_path / "a" / "wandb" / "offline-run-20261121_100000-old").mkdir(parents=True)
    (tmp_path / "a" / "wandb" / "run-20261121_110000-x1-y").mkdir()
    assert run_info(tmp_path / "a", told).id == "x1-y"  # as it was tracked
    assert run_info(tmp_path / "a", told | {"sweep": SWEEP}).id == "lora-1a2b-7-1"
    assert run_info(tmp_path / "a", told | {"sweep": SWEEP}, "mine").group == "mine"


def test_a_published_run_has_the_tags_of_a_tracked_one(tmp_path: Path) -> None:
    """With the tag of chosen pictures too, which are not to be compared with others."""
    about = make_about()
    about["config"]["method"]["select"] = {"candidates": 4}
    about["config"]["tags"] = ["mine"]
    assert run_info(tmp_path, about).tags == ("dreambooth", "mini", "judges:mini", "best-of:4", "mine")
    whole = build(compose_plain("method=average", "method.select.candidates=3", "tags=[own]"))
    assert tags_of(plain(whole)) == ("average", "mini", "judges:mini", "best-of:3", "own")


def test_ids_and_tags_are_what_wandb_takes() -> None:
    import wandb

    names = ["lora-1a2b-7-1", "my study/1:2-3-0", "my study_1:2-3-0", "ä" * 200, "x" * 200]
    ids = [safe_id(name) for name in names]
    assert ids[0] == names[0]
    assert len(set(ids)) == len(names)
    for one in ids:
        assert wandb.Settings(run_id=one).run_id == one
        assert len(one) <= 128
    tags = safe_tags(["a", "", "a", "judges:" + "x" * 100])
    assert wandb.Settings(run_tags=tags).run_tags == tuple(tags)
    assert tags[0] == "a"
    assert len(tags) == 2


def test_unfit_runs_are_named_and_the_rest_is_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_run(tmp_path / "runs" / "good")
    put_run(tmp_path / "runs" / "corrupt")
    (tmp_path / "runs" / "corrupt" / "metrics.json").write_text("{")
    put_run(tmp_path / "runs" / "unfinished")
    (tmp_path / "runs" / "unfinished" / "trial.json").unlink()
    (tmp_path / "empty").mkdir()
    places = [tmp_path / "runs", tmp_path / "empty", tmp_path / "nowhere"]
    assert main([*map(str, places), "--mode", "offline"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "metrics.json cannot be read",
        "no trial.json",
        "empty: left out: holds no run folder",
        "nowhere: left out: does not exist",
        "good: recorded offline",
    ):
        assert words in said
    assert len(logs(tmp_path / "runs" / "good")) == 1


def test_a_database_leads_to_its_run_folders(tmp_path: Path) -> None:
    from tests.sweeps.test_leaderboard import make_study

    put_run(tmp_path / "outputs" / "day" / "base0")
    make_study(tmp_path / "sweep", tmp_path / "outputs")
    names = {Path(name).name for name, folder in found([str(tmp_path / "sweep" / "study.db")])}
    assert names == {"base0", "1"}  # scored and stopped; the one that is gone is not
    (tmp_path / "broken.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    ((_, why),) = found([str(tmp_path / "broken.db")])
    assert "cannot be read" in str(why)


@pytest.mark.slow
def test_eight_workers_at_once_do_not_collide(tmp_path: Path) -> None:
    """Each in a process of its own, as on one machine with eight jobs; all begin at the same moment."""
    jobs = []
    for trial in range(8):
        sweep = {**SWEEP, "trial": trial, "id": f"lora-1a2b-{trial}-0"}
        jobs.append(put_run(tmp_path / "sweep" / str(trial), 0.01 * trial, about={"sweep": sweep}))
    command = [sys.executable, "-m", "sweeps.publish", "--mode", "offline"]
    processes = [subprocess.Popen([*command, str(job)], stdout=subprocess.PIPE, text=True) for job in jobs]
    try:
        said = [process.communicate(timeout=LIMIT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * 8, said
    for trial, job in enumerate(jobs):
        (log,) = logs(job)
        whole: dict[str, Any] = json.loads(inspect(log, "--summary"))
        assert whole["run_id"] == f"lora-1a2b-{trial}-0"
        assert (
            whole["summary"]["final_score"] == json.loads((job / "metrics.json").read_text())["final_score"]
        )


def test_a_moved_copy_is_the_same_run(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run")
    shutil.copytree(run, tmp_path / "copy")
    told = json.loads((run / "trial.json").read_text())
    assert run_info(tmp_path / "copy", told).id == run_info(run, told).id
