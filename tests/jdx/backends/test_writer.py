"""Snapshots that are written while training goes on: the same files, and whole ones whatever happens meanwhile."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jdx.backends import stops
from jdx.backends.torch import snapshots
from jdx.backends.torch.adapters import Adapter
from jdx.backends.torch.models import Models
from jdx.backends.torch.snapshots import AdapterState
from jdx.backends.torch.writer import HandOver, Work, Writer, writing
from tests.jdx.backends.train_jobs import THREE, Moments, make_job, run, with_word

FILES = ("pytorch_lora_weights.safetensors", "state.safetensors", "losses.csv")
PATIENCE = 60.0  # seconds after which a test gives up


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("snapshots")]


class Steps:
    """Counts the steps of a training; `reached` is set when so many have begun, and `then` is raised there."""

    def __init__(
        self, models: Models, patch: pytest.MonkeyPatch, step: int, then: BaseException | None = None
    ):
        forward, self.calls, self.reached = models.unet.forward, 0, threading.Event()

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1  # the first call is the measurement of memory
            if self.calls > step:
                self.reached.set()
                if then is not None:
                    raise then
            return forward(*args, **kwargs)

        patch.setattr(models.unet, "forward", counted)


def hold_back(patch: pytest.MonkeyPatch, step: int, until: threading.Event) -> None:
    """Do not write the snapshot of `step` before `until`."""
    save = snapshots.save

    def late(folder: Path, adapter: Adapter, state: AdapterState) -> None:
        assert state.step != step or until.wait(PATIENCE)
        save(folder, adapter, state)

    patch.setattr(snapshots, "save", late)


def test_a_snapshot_is_of_its_step_however_late_it_is_written(
    models: Models, moments: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = [with_word(adapter) for adapter in THREE]
    alone = {
        step: run(make_job(moments, models, *adapters, snapshots=(step,)), models, tmp_path / str(step))
        for step in (2, 5)
    }
    with monkeypatch.context() as patch:
        hold_back(patch, 2, until=Steps(models, patch, 5).reached)
        late = run(make_job(moments, models, *adapters, snapshots=(2, 5)), models, tmp_path / "late")
    assert list(late.folders) == [(adapter.style, step) for step in (2, 5) for adapter in adapters]
    for (style, step), folder in late.folders.items():
        for file in (*FILES, "learned_embeds.safetensors"):
            assert (folder / file).read_bytes() == (alone[step].folders[style, step] / file).read_bytes()


@pytest.mark.parametrize("end", [9, 100_000])
def test_a_full_disk_ends_the_training(
    end: int, models: Models, moments: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, begun = snapshots.save, []

    def full(folder: Path, adapter: Adapter, state: AdapterState) -> None:
        begun.append((folder.parent.name, state.step))
        if begun[-1] == ("05", 2):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(folder, adapter, state)

    monkeypatch.setattr(snapshots, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run(make_job(moments, models, *THREE, snapshots=(2, end)), models, tmp_path)
    assert {step for _, step in begun} == {2}
    whole = [path for path in tmp_path.glob("*/*") if not path.name.startswith(".")]
    assert {path.parent.name for path in whole} == {style for style, _ in begun} - {"05"}
    assert all(snapshots.load(path, 2).step == 2 for path in whole)


def test_an_interruption_leaves_the_snapshot_before_it_whole(
    models: Models, moments: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int]] = []

    def note(style: str, step: int, folder: Path) -> None:
        assert snapshots.load(folder, step).step == step
        told.append((style, step))

    with monkeypatch.context() as patch:
        hold_back(patch, 2, until=Steps(models, patch, 3, then=KeyboardInterrupt()).reached)
        with pytest.raises(KeyboardInterrupt):
            run(make_job(moments, models, *THREE, snapshots=(2, 9)), models, tmp_path, note)
    assert told == [(adapter.style, 2) for adapter in THREE]
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["000002"] * 3


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, [2, 4]), (1e9, [4])])
def test_restart_points_wait_for_their_time(
    seconds: float,
    steps: list[int],
    models: Models,
    moments: Moments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stops, "RESTART_SECONDS", seconds)
    result = run(make_job(moments, models, THREE[0], restart_points=(2,)), models, tmp_path)
    assert [step for _, step in result.folders] == steps


def test_one_snapshot_at_a_time() -> None:
    gate = threading.Event()
    done: list[str] = []

    def slow() -> HandOver:
        assert gate.wait(PATIENCE)
        return partial(done.append, "first")

    with writing() as writer:
        writer.begin([slow])
        assert writer.busy
        writer.look()  # does not wait
        threading.Timer(0.05, gate.set).start()
        writer.begin([written(done, "second")])
        assert done[0] == "first"
    assert done == ["first", "second"]
    assert not writer.busy


def written(done: list[str], name: str) -> Work:
    """A work whose files are there at once and whose handing over is noted."""
    return lambda: partial(done.append, name)


def test_files_are_written_side_by_side_and_handed_over_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jdx.backends.torch.writer.threads", lambda most: most)
    together = threading.Barrier(3, timeout=PATIENCE)
    done: list[int] = []

    def work(number: int) -> HandOver:
        together.wait()  # nobody goes on alone
        time.sleep(0.02 * (3 - number))  # the last one is written first
        return partial(done.append, number)

    with writing() as writer:
        writer.begin([partial(work, number) for number in range(3)])
    assert done == [0, 1, 2]


def fail() -> HandOver:
    raise OSError(errno.EIO, "Input/output error")


def test_failures_are_told_once_and_end_their_snapshot() -> None:
    done: list[str] = []
    with writing() as writer:
        writer.begin([written(done, "before"), fail, written(done, "after")])
        with pytest.raises(OSError, match="Input/output"):
            writer.wait()
        writer.begin([written(done, "next")])
    assert done == ["before", "next"]


@pytest.mark.parametrize(
    ("reason", "seen"), [(None, OSError), (MemoryError(), OSError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_failure_at_the_end_is_not_lost(
    reason: BaseException | None, seen: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def work(writer: Writer) -> None:
        writer.begin([fail])
        if reason is not None:
            raise reason

    with pytest.raises(seen), writing() as writer:
        work(writer)
    assert ("Input/output error" in caplog.text) == (seen is KeyboardInterrupt)


def test_a_second_interruption_abandons_what_was_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jdx.backends.torch.writer.threads", lambda most: 1)
    begun, patience = threading.Event(), time.monotonic() + PATIENCE
    done: list[str] = []

    def in_hand() -> HandOver:
        begun.set()
        while not writer._abandoned and time.monotonic() < patience:
            time.sleep(0.001)
        return partial(done.append, "in hand")

    def interrupted(_: Writer) -> None:
        assert begun.wait(PATIENCE)
        raise KeyboardInterrupt

    writer = Writer()
    writer.begin([in_hand, written(done, "after")])
    monkeypatch.setattr(Writer, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.close()
    assert done == ["in hand"]
