"""One trial on several devices: two processes on the CPU stand for two cards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from evaluation import load_judges
from jdx import ROOT, device_list, shards, trial, validation
from jdx.backends import make_backend
from jdx.errors import BackendError, ConfigError
from jdx.progress import Progress
from jdx.shards import Crew, shares
from jdx.stages import judges
from jdx.stages.bench import Bench
from launcher.worker import _output_to
from tests.configs import compose_plain
from tests.jdx.lab import Lab, challenge, lab, made, pixels

__all__ = ["challenge", "lab"]

TWO = ("backend.device=auto", "backend.devices=[cpu,cpu]")


def adapters(folder: Path) -> dict[str, bytes]:
    """Every adapter's bytes."""
    files = (folder / "adapters").rglob("*.safetensors")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}


@pytest.mark.slow
def test_two_devices_make_what_one_makes(lab: Lab) -> None:
    settings = (
        "method=styleid_db",
        "method.styleid.steps=3",
        "method.prior.weight=1",
        "method.prior.per_word=1",
    )
    _, one = lab.run(*settings, "group_size=1")  # the same styles in a batch: none beside it
    result, two = lab.run(*settings, *TWO, f"store.root={lab.root / 'other'}")
    assert adapters(two) == adapters(one)
    ours, theirs = pixels(two), pixels(one)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    scores = [json.loads((run / "metrics.json").read_text())["styles"] for run in (one, two)]
    assert scores[0] == scores[1]
    assert made(two)["train"] == {"made": 2, "reused": 0}
    assert made(two)["generate"] == {"made": 2, "reused": 0}
    assert (two / "losses.csv").read_text() == (one / "losses.csv").read_text()
    again, three = lab.run(*settings, *TWO, f"store.root={lab.root / 'other'}")
    assert again.final_score == result.final_score
    assert made(three)["train"] == {"made": 0, "reused": 2}


def test_what_the_store_has_needs_no_further_process(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.run()
    monkeypatch.setattr(shards, "_Shard", None)  # to start one would fail
    _, run = lab.run(*TWO)
    assert made(run)["train"] == {"made": 0, "reused": 2}


class Stopping:
    """A device on which every training stops."""

    def __init__(self, device: str):
        self.device, self.styles = device, [""]

    def order(self, bench: Bench, seeds: shards.Seeds, styles: Sequence[str]) -> None:
        self.styles = list(styles)

    def answer(self) -> shards._Answer:
        failed = dict.fromkeys(self.styles, (3, "the loss is nan"))
        return shards._Answer(
            failed, {"train": {"made": len(failed), "reused": 0}}, [(1, {self.styles[0]: 0.5})]
        )

    def let_go(self) -> None:
        return

    def end(self) -> None:
        return


def test_a_style_that_stops_on_another_device_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_Shard", Stopping)
    result, run = lab.run(*TWO)
    assert result.failed == {"05": (3, "the loss is nan")}
    assert {name.split("/")[0] for name in pixels(run / "images")} == {"00"}
    record = json.loads((run / "trial.json").read_text())
    assert record["failed_styles"] == {"05": {"step": 3, "reason": "the loss is nan"}}
    assert record["stages"]["train"] == {"made": 2, "reused": 0}


def test_a_dead_device_is_told_and_the_others_work_is_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.sys, "executable", "/bin/false")  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match=r"the process of cpu ended by exit code 1.*backend\.devices=\[\]"):
        lab.run(*TWO)
    monkeypatch.undo()
    _, run = lab.run()
    assert made(run)["train"] == {"made": 1, "reused": 1}


def test_devices_are_started_before_the_trial_imports(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    look = Bench.look_ahead

    class Watched(Stopping):
        def __init__(self, device: str):
            done.append(f"start {device}")
            super().__init__(device)

        def end(self) -> None:
            done.append(f"end {self.device}")

    def look_ahead(bench: Bench) -> None:
        if not bench.dry:
            done.append("look")
        look(bench)

    monkeypatch.setattr(shards, "_Shard", Watched)
    monkeypatch.setattr(Bench, "look_ahead", look_ahead)
    with pytest.raises(ConfigError, match=r"lora\.unet\.targets"):
        lab.run(*TWO, "lora.unet.targets=[nothing]")
    assert done == ["start cpu", "look", "end cpu"]


@pytest.mark.slow
def test_further_devices_stay_for_the_next_trial(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(log: Path, *settings: str) -> tuple[list[int], Path]:
        with _output_to(log):
            _, run = lab.run(*TWO, *settings)
        assert made(run)["train"] == {"made": 2, "reused": 0}
        assert "training: done" in log.read_text()  # said by the further device; here all is quiet
        return shards.idle_processes(), run

    lab.run("train.steps=2")  # leaves encodings and class pictures, and no process
    assert not shards.idle_processes()
    first, _ = shared(lab.root / "1.log")
    assert len(first) == 1
    assert shared(lab.root / "2.log", "optim.unet.lr=0.02")[0] == first
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    monkeypatch.chdir(lab.root)
    again, run = shared(lab.root / "3.log", "optim.unet.lr=0.03", "store.root=store")
    assert again == first
    with pytest.raises(ConfigError):
        lab.run(*TWO, "optim.unet.lr=0.04", "lora.unet.targets=[nothing]")
    assert not psutil.pid_exists(first[0])  # what is left after a failure may be in any state
    _, alone = lab.run("optim.unet.lr=0.03", f"store.root={lab.root / 'other'}", "group_size=1")
    assert adapters(run) == adapters(alone)


@pytest.mark.parametrize("cause", ["killed", "surroundings", "one device", "other devices"])
def test_a_device_that_is_of_no_use_any_more_is_ended(cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Crew(["cpu", "cpu"]) as crew:
        crew._hire(1)
    (pid,) = shards.idle_processes()
    if cause == "killed":
        os.kill(pid, signal.SIGKILL)
        shards._idle[0]._process.wait()
    elif cause == "surroundings":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-of-another-job")
    devices = {"one device": ["cpu"], "other devices": ["cpu", "cuda:0"]}
    with Crew(devices.get(cause, ["cpu", "cpu"])) as crew:
        if cause != "other devices":
            crew._hire(1)
    left = shards.idle_processes()
    shards.dismiss()
    assert pid not in left
    assert not any(map(psutil.pid_exists, [pid, *left]))


def has_weights(folder: Path) -> bool:
    """Whether weights are below a folder; folders that go while they are looked through are no error."""
    return any(name.endswith(".safetensors") for _, _, names in os.walk(folder) for name in names)


@pytest.mark.slow
def test_a_device_ends_with_its_trial(lab: Lab) -> None:
    """Also in the middle of its work: the trial's process may have been killed."""
    endless = ("train.steps=1000000", "train.checkpoint_every=5")
    config = validation.build(compose_plain(*lab.settings, f"store.root={lab.root / 'store'}", *endless))
    with Progress(quiet=True) as progress:
        bench, seeds = trial.open_bench(config, trial.read_set(config), progress)
    shard = shards._Shard("cpu")
    try:
        shard.order(bench, seeds, ["05"])
        limit = time.monotonic() + 180.0
        while not has_weights(lab.root / "store"):
            assert shard._process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.1)
        shard._link.shutdown(socket.SHUT_RDWR)  # as when our process is no more
        assert shard._process.wait(30.0) == 0
    finally:
        shard.end()


def test_all_devices_end_when_ending_them_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, and once more: the first is still waited for."""
    hired = [shards._Shard("cpu"), shards._Shard("cpu")]
    shards._idle.extend(hired)

    def interrupted(timeout: float | None = None) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(hired[0]._process, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shards.dismiss()
    assert shards.idle_processes() == []
    monkeypatch.undo()
    assert [shard._process.wait(60.0) for shard in hired] == [-signal.SIGTERM] * 2


TERMINAL = """
    import os, socket, sys, termios

    terminal = os.open(sys.argv[1], os.O_RDWR)
    settings = termios.tcgetattr(terminal)
    settings[3] |= termios.TOSTOP
    termios.tcsetattr(terminal, termios.TCSANOW, settings)
    socket.setdefaulttimeout(0.01)
    from jdx import shards

    shard = shards._Shard("cpu")
    try:
        shard._link.sendall(b"an order\\n")
        print(shard._answers.readline())
    finally:
        shard.end()
"""


def test_a_device_answers_whatever_terminal_and_timeout_its_program_has() -> None:
    """A terminal may stop who writes to it from the background; sockets may have a default timeout."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", textwrap.dedent(TERMINAL), os.ttyname(theirs)]
    program = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    try:
        answer, _ = program.communicate(timeout=180.0)
        said = os.read(ours, 1 << 16).decode()
    finally:
        program.kill()
        os.close(ours)
        os.close(theirs)
    assert "JSONDecodeError" in answer, said
    assert "a share of the styles failed" in said


def test_styles_are_dealt_out() -> None:
    assert shares(["a", "b", "c", "d", "e"], 2) == [["a", "c", "e"], ["b", "d"]]
    assert shares(["a", "b"], 8) == [["a"], ["b"]]


def test_one_device_shares_nothing() -> None:
    with Crew(["cuda:0"]) as crew:
        assert crew.make(None, [], {}, None) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "devices"),
    [
        (("backend.device=cpu",), ["cpu"]), (TWO, ["cpu", "cpu"]), (("backend.devices=[]",), []),
        (("backend.devices=[cuda:1,cuda:3]",), ["cuda:1", "cuda:3"]),
    ],
)  # fmt: skip
def test_devices_of_a_trial(settings: tuple[str, ...], devices: list[str]) -> None:
    assert device_list.devices_of(validation.build(compose_plain(*settings))) == devices


def test_a_further_device_sees_its_card_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert shards._visible("cuda:2") == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa, GPU-bb")
    assert shards._visible("cuda:1") == "GPU-bb"


def test_one_device_and_several_contradict() -> None:
    with pytest.raises(ConfigError, match="leave it at auto"):
        validation.build(compose_plain("backend.device=cuda:0", "backend.devices=[cuda:0,cuda:1]"))


@pytest.mark.parametrize(
    ("settings", "device"),
    [
        (("backend.devices=[cuda:1]",), "cuda:1"), (("backend.devices=[cpu]",), "cpu"),
        (("backend.devices=[cuda:3,cpu]",), "cuda:3"),
        (("backend.devices=[]", "backend.device=cuda:2"), "cuda:2"), (("backend.devices=[]",), "auto"),
    ],
)  # fmt: skip
def test_first_device_of_the_list_is_the_trials_own(settings: tuple[str, ...], device: str) -> None:
    assert device_list.device_of(validation.build(compose_plain(*settings))) == device


def test_backend_and_judges_are_on_the_one_device_of_the_list(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    make, load = make_backend, load_judges

    def watched_make(name: str, **settings: Any) -> Any:
        asked.append(f"backend {settings['device']}")
        return make(name, **settings)

    def watched_load(*some: Any, **settings: Any) -> Any:
        asked.append(f"judges {settings['device']}")
        return load(*some, **settings)

    monkeypatch.setattr(trial, "make_backend", watched_make)
    monkeypatch.setattr("evaluation.load_judges", watched_load)
    judges.release()
    _, run = lab.run("method=base", "backend.device=auto", "backend.devices=[cpu]")
    assert asked == ["backend cpu", "judges cpu"]
    assert json.loads((run / "trial.json").read_text())["devices"] == 1


def test_every_device_that_is_not_here_is_told_with_other_faults(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError) as caught:
        lab.run(
            "backend.device=auto", "backend.devices=[cuda:7,cpu,cuda:9]", "evaluation.networks.dino=/dev/null"
        )
    faults = [(fault.key, fault.value) for fault in caught.value.faults]
    assert faults[:2] == [("backend.devices", "cuda:7"), ("backend.devices", "cuda:9")]
    assert any(key == "evaluation.judges" for key, _ in faults)
    assert "there are: cpu" in str(caught.value)
