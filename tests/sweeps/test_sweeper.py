"""The sweeper as people start it: commands of a small application, and two sweeps of real trials."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from jdx import ROOT
from sweeps.ledger import WARM
from sweeps.report.read import read_sweep
from sweeps.storage import STUDY_FILE
from tests.launcher.kit import runs

APP = """
import math, os, sys, time
from pathlib import Path
import hydra
from omegaconf import DictConfig, OmegaConf

from data.faults import DataError, Fault
from jdx import shards

OmegaConf.register_new_resolver("double", lambda x: 2 * x, replace=True)

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def app(config: DictConfig):
    with open(Path(hydra.utils.get_original_cwd()) / "calls.txt", "a") as file:
        file.write(f"{config.x} {config.shape.name} {config.seed}\\n")
    if config.crew:
        with shards.Crew(["cpu", "cpu"]) as crew:
            crew._hire(1)
        with open(Path(hydra.utils.get_original_cwd()) / "crews.txt", "a") as file:
            file.write(f"{os.getpid()} {shards.idle_processes()}\\n")
    while config.wait and not Path(config.wait).exists():
        time.sleep(0.05)
    if config.x == 99:
        raise ValueError("as asked")
    if config.x == 98:
        faults = [("/set", "does not exist", "make it"), ("/set/00", "is empty", "fill it")]
        raise DataError(Fault(Path(path), *words) for path, *words in faults)
    value = -((config.x - 3) ** 2) - (config.shape.name == "square") + config.twice * 0 + config.seed / 100
    print("this goes to the log")
    return (value, float(config.x)) if config.pair else value

def space(trial, config):
    if trial.params["shape"] == "square":
        trial.suggest_int("side", 1, 3)

def look(points, here):
    faulty = [point.x for point in points if Path("fault").exists()]
    if faulty:
        raise DataError([Fault(Path("/set"), f"is empty at x = {faulty}", "fill it")])
    return [f"looked, {here}"]

if __name__ == "__main__":
    app()
"""
CONFIG = """
defaults:
  - shape: round
  - _self_
  - override hydra/sweeper: jdx
x: 0
side: 0
wait: ""
seed: 0
pair: false
crew: false
twice: ${double:${x}}
launcher:
  name: gpu_pool
  gpus_per_trial: 0
  cpu_slots: 3
hydra:
  sweep:
    dir: multirun/${oc.select:hydra.sweeper.study_name,sweep}
  sweeper:
    direction: maximize
    not_content: [wait, launcher]
    seed_key: seed
"""


@pytest.fixture
def app(tmp_path: Path) -> App:
    (tmp_path / "conf" / "shape").mkdir(parents=True)
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "conf" / "config.yaml").write_text(CONFIG)
    for name in ("round", "square"):
        (tmp_path / "conf" / "shape" / f"{name}.yaml").write_text(f"name: {name}\n")
    return App(tmp_path)


class App:
    """The application in its folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def start(self, *words: str) -> subprocess.Popen[str]:
        env = os.environ | {
            "PYTHONPATH": str(ROOT),
            "HYDRA_FULL_ERROR": "1",
            "JDX_LEASES": str(self.folder / "leases"),
        }
        return subprocess.Popen(
            [sys.executable, "app.py", *words], cwd=self.folder, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        out, _ = process.communicate(timeout=240)
        return process.returncode, out

    def calls(self) -> list[str]:
        path = self.folder / "calls.txt"
        return sorted(path.read_text().splitlines()) if path.exists() else []

    def sweeps(self) -> list[Path]:
        return sorted((self.folder / "multirun").iterdir())

    def results(self) -> dict[str, Any]:
        (folder,) = self.sweeps()
        found: dict[str, Any] = json.loads((folder / "results.json").read_text())
        return found


def test_a_plain_grid_runs_every_combination_once_and_again_not_at_all(app: App) -> None:
    code, out = app.run("-m", "x=1,2,3", "shape=round,square")
    assert code == 0, out
    wanted = sorted(f"{x} {shape} 0" for x in (1, 2, 3) for shape in ("round", "square"))
    assert app.calls() == wanted
    (folder,) = app.sweeps()
    assert folder.name.startswith("grid-")
    assert yaml.safe_load((folder / "optimization_results.yaml").read_text()) == {
        "name": "optuna", "best_params": {"shape": "round", "x": 3}, "best_value": 0.0,
    }  # fmt: skip
    best = app.results()["best"][0]["number"]
    overrides = yaml.safe_load((folder / str(best) / ".hydra" / "overrides.yaml").read_text())
    assert sorted(overrides) == ["shape=round", "x=3"]
    assert "this goes to the log" in (folder / "jobs" / f"{best:04d}" / "log.txt").read_text()
    assert "app.py x=3 shape=round" in out
    page = (folder / "sweep.html").read_text(encoding="utf-8")
    assert "app.py x=3 shape=round" in page
    assert page.count("</tr>") == 1 + 6
    code, out = app.run("-m", "x=1,2,3", "shape=round,square", "wait=conf")
    assert code == 0, out
    assert "going on: 6 finished" in out
    assert "hydra.sweeper.study_name=NAME" in out
    assert app.calls() == wanted
    code, out = app.run("-m", "x=1,2", "shape=round")  # another search: another study
    assert code == 0, out
    assert len(app.sweeps()) == 2


def test_optuna_searches_goes_on_and_knows_conditions(app: App) -> None:
    words = ["-m", "shape=round,square", "x=range(0,7)", "hydra.sweeper.custom_search_space=app.space"]
    code, out = app.run(*words, "hydra.sweeper.n_trials=6")
    assert code == 0, out
    code, out = app.run(*words, "hydra.sweeper.n_trials=9")
    assert code == 0, out
    results = app.results()
    assert len(app.calls()) == results["finished"] == 9
    assert all(("side" in row["params"]) == (row["params"]["shape"] == "square") for row in results["trials"])


def test_brute_force_ends_when_every_point_has_run(app: App) -> None:
    words = ["-m", "shape=round,square", "x=1,2", "hydra.sweeper.custom_search_space=app.space"]
    code, out = app.run(*words, "hydra.sweeper.sampler=brute_force", "hydra.sweeper.n_trials=50")
    assert code == 0, out
    points = {json.dumps(row["params"], sort_keys=True) for row in app.results()["trials"]}
    assert len(points) == len(app.calls()) == 2 + 2 * 3


def test_a_configuration_of_hydra_optuna_sweeper_runs_and_is_told_how_it_was_read(app: App) -> None:
    words = [
        "+hydra.sweeper.search_space={x:{type:int,low:1,high:5,step:2}}", "hydra.sweeper.n_trials=3",
        "hydra.sweeper.sampler={_target_:optuna.samplers.RandomSampler,seed:1}",
        "hydra.sweeper.storage={_target_:optuna.storages.RDBStorage,url:'sqlite:///mine.db'}",
    ]  # fmt: skip
    code, out = app.run("-m", *words)
    assert code == 0, out
    assert "read as hydra.sweeper.params: {x: range(1,6,2)}" in out
    assert "read as hydra.sweeper.storage=sqlite:///mine.db" in out
    assert "hydra-optuna-sweeper minimizes unless told otherwise" in out
    assert {row["params"]["x"] for row in app.results()["trials"]} <= {1, 3, 5}
    assert (app.folder / "mine.db").is_file()
    (folder,) = app.sweeps()
    assert len(read_sweep(folder).rows) == 3  # from another folder than the command's
    assert not Path("mine.db").exists()


def test_seeds_and_objectives(app: App) -> None:
    words = [
        "-m",
        "x=2,3",
        "pair=true",
        "hydra.sweeper.seeds=[1,2]",
        "hydra.sweeper.direction=[maximize,minimize]",
    ]
    code, out = app.run(*words)
    assert code == 0, out
    assert app.calls() == ["2 round 1", "2 round 2", "3 round 1", "3 round 2"]
    rows = {row["params"]["x"]: row for row in app.results()["trials"]}
    assert rows[3]["values"] == [pytest.approx(0.015), 3.0]
    assert set(rows[3]["repetitions"]) == {"1", "2"}
    (folder,) = app.sweeps()
    assert (folder / "0" / "seed_1" / ".hydra" / "config.yaml").is_file()
    assert len(yaml.safe_load((folder / "optimization_results.yaml").read_text())["solutions"]) == 2


def test_failures_never_end_a_sweep_and_all_failed_still_reports(app: App) -> None:
    code, out = app.run("-m", "x=1,99,98,3", "hydra.sweeper.retries=1")
    assert code == 0, out
    assert app.calls().count("99 round 0") == 2
    assert app.calls().count("98 round 0") == 1  # the next attempt would read the same data
    assert "  raised, 1 trial: ValueError: as asked\n" in out
    assert "  data, 1 trial: /set: does not exist; make it; /set/00: is empty; fill it\n" in out
    assert {row["params"]["x"]: row["state"] for row in app.results()["trials"]} == {
        1: "complete",
        99: "fail",
        98: "fail",
        3: "complete",
    }
    code, out = app.run("-m", "x=99,99", "hydra.sweeper.study_name=bad")
    assert code != 0
    assert "no trial finished" in out
    assert json.loads((app.folder / "multirun" / "bad" / "results.json").read_text())["failed"] == 1
    page = (app.folder / "multirun" / "bad" / "sweep.html").read_text(encoding="utf-8")
    assert "no trial has finished yet" in page


def test_a_workers_trials_share_the_processes_of_further_devices(app: App) -> None:
    """Also after one that failed later on."""
    words = ["-m", "x=1,99,2", "crew=true", "launcher.cpu_slots=1", "hydra.sweeper.retries=1"]
    code, out = app.run(*words)
    assert code == 0, out
    crews = (app.folder / "crews.txt").read_text().splitlines()
    assert len(crews) >= 3
    assert len(set(crews)) == 1, crews
    (pid,) = json.loads(crews[0].partition(" ")[2])
    assert not runs(pid)


def test_an_application_may_refuse_before_anything_is_made_and_where_trials_are_left(app: App) -> None:
    fault = app.folder / "fault"
    fault.touch()
    words = ["-m", "x=1,2,3", "hydra.sweeper.preflight=app.look"]
    code, out = app.run(*words)
    assert code != 0
    assert out.count("/set: is empty at x = [1, 2, 3]; fill it") == 1
    assert app.calls() == []
    assert not (app.folder / "multirun").exists()
    fault.unlink()
    code, out = app.run(
        *words, "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler=grid", "hydra.sweeper.study_name=s"
    )
    assert code == 0, out
    assert out.count("looked, True") == 1
    fault.touch()
    there = {path: path.stat() for path in app.sweeps()[0].rglob("*") if path.name != "controller.lock"}
    words += ["hydra.sweeper.sampler=grid", "hydra.sweeper.study_name=s"]
    code, out = app.run(*words, "hydra.sweeper.n_trials=3")  # one is left
    assert code != 0
    assert "/set: is empty" in out
    assert {path: path.stat().st_mtime_ns for path in there} == {p: s.st_mtime_ns for p, s in there.items()}
    code, out = app.run(*words, "hydra.sweeper.n_trials=2")  # nothing is left to start
    assert code == 0, out
    assert len(app.calls()) == 2
    code, out = app.run(*words, "hydra.sweeper.n_trials=3", "hydra.sweeper.preflight=null")
    assert code == 0, out
    assert len(app.calls()) == 3


def test_trials_that_an_earlier_controller_left_are_trials_to_be_run(app: App) -> None:
    end, fault = app.folder / "end", app.folder / "fault"
    words = ["-m", "x=1,2", f"wait={end}", "hydra.sweeper.preflight=app.look"]
    first = app.start(*words)
    deadline = time.monotonic() + 180
    while len(app.calls()) < 2:  # all there are: they wait
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.kill()
    first.communicate(timeout=240)
    fault.touch()
    ends = threading.Timer(60, end.touch)  # whatever happens below, its jobs end
    ends.start()
    code, out = app.run(*words)
    ends.cancel()
    end.touch()
    assert code != 0
    assert "/set: is empty" in out
    fault.unlink()
    code, out = app.run(*words)
    assert code == 0, out
    assert (len(app.calls()), app.results()["finished"]) == (2, 2)


def test_another_search_on_the_same_study_is_refused(app: App) -> None:
    app.run("-m", "x=1,2", "hydra.sweeper.study_name=mine")
    head = app.folder / "multirun" / "mine" / "sweep.json"
    there = head.read_bytes()
    assert json.loads(there)["command"].startswith("python ")
    code, out = app.run("-m", "x=1,2,5", "side=2", "hydra.sweeper.study_name=mine")
    assert head.read_bytes() == there
    assert code != 0
    assert "x = choice(1,2,5)\n      the study was begun with choice(1,2)" in out
    assert "side = 2\n      the study was begun with 0" in out
    assert "hydra.sweeper.study_name=NAME" in out
    assert len(app.calls()) == 2


def test_two_studies_do_not_share_a_folder(app: App) -> None:
    app.run("-m", "x=1,2", "hydra.sweep.dir=multirun/fixed")
    there = (app.folder / "multirun" / "fixed" / "sweep.json").read_bytes()
    code, out = app.run("-m", "x=7,8", "hydra.sweep.dir=multirun/fixed")
    assert code != 0
    assert "hydra.sweep.dir" in out
    assert "holds the sweep" in out
    assert (app.folder / "multirun" / "fixed" / "sweep.json").read_bytes() == there
    assert len(app.calls()) == 2
    assert app.run("-m", "x=1,2", "hydra.sweep.dir=multirun/fixed")[0] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["x=1,2", "hydra.sweeper.direction=minimize", "hydra.sweeper.pruner=median"],
            ["hydra.sweeper.pruner", "direction=maximize"],
        ),
        (["x=interval(5,1)", "side=tag(log,interval(0,1))"], ["x = interval(5,1)", "must rise", "side =", "above 0"]),
        (["x=1,2", "hydra.sweeper.direction=null", "hydra.sweeper.n_jobs=0"], ["hydra.sweeper.direction", "n_jobs"]),
        (["x=1,2", "hydra.sweeper.direction=up"], ["hydra.sweeper.direction = 'up'", "maximize"]),
        (["x=1,2", "hydra.sweeper.sampler=tpo"], ["tpo", "cmaes"]),
        (["x=1,2", "+hydra.sweeper.n_trial=3"], ["n_trial", "did you mean n_trials"]),
        (["x=1,2", "launcher.cpu_slots=0"], ["launcher.cpu_slots"]),
        (["x=1,2", "hydra.sweeper.preflight=app.lock"], ["hydra.sweeper.preflight = app.lock", "give module.function"]),
        (["nope=1,2"], ["nope"]),
        (["x=5", "hydra.sweeper.sampler=tpe"], ["nothing is searched"]),
        (["x=1,2", "hydra.sweeper.storage=study.db"], ["must be a URL"]),
        (["x=1,2", "hydra.sweeper.sampler=tpe", "hydra.sweeper.warm_start=[/nowhere]"], ["/nowhere", "run folders"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_report_before_anything_runs(app: App, words: list[str], told: list[str]) -> None:
    code, out = app.run("-m", *words)
    assert code != 0
    assert all(text in out for text in told), out
    assert app.calls() == []


def test_a_second_controller_is_refused_and_ctrl_c_finishes_what_runs(app: App) -> None:
    end = app.folder / "end"
    words = ["-m", "x=range(0,12)", f"wait={end}"]
    first = app.start(*words)
    deadline = time.monotonic() + 180
    while len(app.calls()) < 3:  # as many as there are slots: they wait
        assert time.monotonic() < deadline
        time.sleep(0.05)
    code, out = app.run(*words)
    assert code != 0
    assert f"process {first.pid} on" in out
    first.send_signal(signal.SIGINT)
    assert first.stdout is not None
    assert any("finishing what runs" in line for line in first.stdout)  # up to that line
    end.touch()
    first.communicate(timeout=240)
    assert first.returncode not in {0, None}
    assert len(app.calls()) == 3
    code, out = app.run("-m", "x=range(0,12)")
    assert code == 0, out
    assert len(app.calls()) == 12


def test_earlier_results_are_told_or_tried_first(app: App) -> None:
    space = ["x=range(0,50)", "hydra.sweeper.sampler=random"]
    code, out = app.run("-m", *space, "hydra.sweeper.n_trials=3", "hydra.sweeper.study_name=old")
    assert code == 0, out
    old = optuna.load_study(study_name="old", storage=f"sqlite:///{app.folder}/multirun/old/{STUDY_FILE}")
    x = min(set(range(50)) - {trial.params["x"] for trial in old.trials})  # a known point is not tried again
    run = app.folder / "run"
    app.run(f"x={x}", "side=1", f"hydra.run.dir={run}")
    (run / "metrics.json").write_text('{"final_score": 0.0}')
    warm = f"hydra.sweeper.warm_start=[{app.folder / 'multirun' / 'old'},{run}]"
    code, out = app.run("-m", *space, "hydra.sweeper.n_trials=2", "hydra.sweeper.study_name=new", warm)
    assert code == 0, out
    assert "3 results of earlier runs are known, 1 points are tried first" in out
    assert "(side)" in out  # what is different about the run
    study = optuna.load_study(study_name="new", storage=f"sqlite:///{app.folder}/multirun/new/{STUDY_FILE}")
    states = [(trial.state.name, WARM in trial.user_attrs) for trial in study.trials]
    assert states == [("COMPLETE", True)] * 4 + [("COMPLETE", False)]
    assert study.trials[3].params == {"x": x}
    assert app.calls().count(f"{x} round 0") >= 2  # the run, and the trial that tries its point


def test_what_every_trial_would_stop_at_is_told_once_and_starts_nothing(tmp_path: Path) -> None:
    words = ["lora.rank=4,8", "data=challenge", "data.root=/nowhere", "model.path=/nowhere", "debug=tiny"]
    done = subprocess.run(
        [sys.executable, "-m", "jdx.train", "-m", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JDX_STORE": str(tmp_path / "store")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for told in (
        "/nowhere: does not exist; data.root must be",
        "model.path = /nowhere\n",
        "none was started",
    ):
        assert done.stderr.count(told) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.slow
def test_real_trials_train_once_for_what_is_only_drawn_anew(tmp_path: Path) -> None:
    """W&B is unreachable all the while, and costs no trial."""
    env = os.environ | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "JDX_LEASES": str(tmp_path / "leases"),
        "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40,
    }  # fmt: skip
    words = [
        "debug=tiny", "data.styles=[0,1]", "group_size=1", "sampler.guidance_scale=2,3", "train.steps=3,4",
        "hydra/sweeper/pruner=wilcoxon", "tracker.mode=online", "tracker.init_timeout=2", "tracker.finish_timeout=2",
        "launcher.cpu_slots=1",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "jdx.train", "-m", *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "multirun").iterdir()
    made = [
        json.loads((folder / str(n) / "trial.json").read_text())["stages"]["train"]["made"] for n in range(4)
    ]
    assert made[0] == 2
    assert sum(made) <= 4  # two styles for three and for four steps, whatever is drawn
    results = json.loads((folder / "results.json").read_text())
    assert results["finished"] == 4
    config = json.loads((folder / "0" / "trial.json").read_text())["config"]
    assert config["train"]["steps"] == 3
    events = (folder / "jobs" / "0000" / "events.jsonl").read_text().splitlines()
    assert {json.loads(line)["style"] for line in events} == set(
        json.loads((folder / "0" / "seeds.json").read_text())
    )
