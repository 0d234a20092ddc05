"""The files of a job's folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.base import AlreadyRunningError, JobSpec, Kind, State
from launcher.cards import Card, chosen
from launcher.channel import Channel
from launcher.folder import (
    EVENTS,
    HEARTBEAT,
    Lease,
    is_held,
    read_events,
    read_job,
    read_lease,
    read_result,
    status_of,
    tell_failure,
    write_job,
    write_result,
)
from launcher.pulse import LONGEST_LOOK, Pulse


def test_a_spec_comes_back_as_it_was_written(tmp_path: Path) -> None:
    spec = JobSpec(tmp_path, "a.b:c", {"x": [1, {"y": None}]}, 2, 0.5, 3, 60.0, {"A": "b"}, "name")
    write_job(spec)
    assert read_job(tmp_path) == spec


def test_every_fault_of_a_spec_is_told() -> None:
    with pytest.raises(ValueError, match=r"target.*attempt.*gpus.*cpus.*timeout"):
        JobSpec(Path("x"), "a.b", attempt=-1, gpus=1.5, cpus=0, timeout=0)


def test_a_lease_has_one_holder(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    lease = Lease.take(tmp_path)
    lease.write(pid=7, host="here")
    assert is_held(tmp_path)
    with pytest.raises(AlreadyRunningError, match="pid 7, host here"):
        Lease.take(tmp_path, patience=0.0)
    lease.close()
    assert not is_held(tmp_path)


def test_a_lease_always_says_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody looks at every moment of a write."""
    seen: list[object] = []
    lease = Lease.take(tmp_path)
    for name in ("ftruncate", "pwrite", "write"):
        real = getattr(os, name)

        def noted(*words: Any, real: Any = real) -> Any:
            seen.append(read_lease(tmp_path).get("attempt"))
            found = real(*words)
            seen.append(read_lease(tmp_path).get("attempt"))
            return found

        monkeypatch.setattr(os, name, noted)
    lease.write(attempt=0, host="a host with a long name")
    lease.write(attempt=1)
    lease.write(attempt=2, host="here")
    assert list(dict.fromkeys(seen)) == [None, 0, 1, 2]
    assert seen.count(None) == 1
    assert read_lease(tmp_path) == {"attempt": 2, "host": "here"}
    lease.close()


def test_the_first_word_on_how_an_attempt_ended_stays(tmp_path: Path) -> None:
    write_job(JobSpec(tmp_path, "a.b:c", attempt=1))
    tell_failure(tmp_path, 1, Kind.CANCELLED, "cancelled", code=-9)
    tell_failure(tmp_path, 1, Kind.KILLED, "ended by signal 9")
    status = status_of(tmp_path, 1)
    assert status is not None
    assert (status.kind, status.reason) == (Kind.CANCELLED, "cancelled")
    assert (read_result(tmp_path) or {})["code"] == -9
    assert not is_held(tmp_path)
    lease = Lease.take(tmp_path)
    with pytest.raises(AlreadyRunningError):
        tell_failure(tmp_path, 2, Kind.KILLED, "ended by signal 9")
    lease.close()
    assert read_result(tmp_path, 2) is None


def test_readers_get_whole_events_and_writers_mend_torn_ones(tmp_path: Path) -> None:
    channel = Channel(tmp_path)
    channel.event({"n": 1})
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(b'{"n": 2')
    events, offset = read_events(tmp_path)
    assert events == [{"n": 1}]
    Channel(tmp_path, attempt=1).event({"n": 3})
    assert read_events(tmp_path, offset)[0] == [{"n": 3}]
    assert Channel(tmp_path).events == [{"n": 1}, {"n": 3}]


def test_an_event_that_json_cannot_say_leaves_no_trace(tmp_path: Path) -> None:
    channel = Channel(tmp_path)
    with pytest.raises(TypeError):
        channel.event({"n": object()})
    assert not (tmp_path / EVENTS).exists()


def test_a_result_counts_for_its_attempt_only(tmp_path: Path) -> None:
    write_job(JobSpec(tmp_path, "a:b"))
    write_result(tmp_path, 0, "failed", error={"kind": "oom", "message": "m"}, gpus=["GPU-1"])
    status = status_of(tmp_path, 0)
    assert status is not None
    assert (status.state, status.code, status.kind, status.gpus) == (State.EXITED, 1, Kind.OOM, ("GPU-1",))
    assert status_of(tmp_path, 1) is None
    write_job(JobSpec(tmp_path, "a:b", attempt=1))
    assert read_result(tmp_path) is None
    assert json.loads((tmp_path / "result.0.json").read_text())["state"] == "failed"


def test_only_time_that_the_watcher_was_awake_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("launcher.pulse.time.monotonic", lambda: clock[0])
    beat, pulse = tmp_path / HEARTBEAT, Pulse()
    beat.touch()
    stills = []
    for step in (0.0, 4.0, 4.0, 3600.0):
        clock[0] += step
        pulse.feel(tmp_path)
        stills.append(pulse.still)
    assert stills == [0.0, 4.0, 8.0, 8.0 + LONGEST_LOOK]
    os.utime(beat, (1, 1))  # any change is a beat, also one back in time: clocks differ between machines
    pulse.feel(tmp_path)
    assert pulse.still == 0.0


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("0,2", ["GPU-aa", "GPU-cc"]), ("GPU-b", ["GPU-bb"]), ("", []), ("-1", []), ("1,7,0", ["GPU-bb"]),
        ("2, 0", ["GPU-cc", "GPU-aa"]), ("GPU", []), ("0,0", ["GPU-aa"]),
    ],
)  # fmt: skip
def test_visible_devices_are_read_as_cuda_does(visible: str, found: list[str]) -> None:
    cards = [Card(f"GPU-{letter * 2}", "Fake", str(index), 1) for index, letter in enumerate("abc")]
    assert [card.id for card in chosen(cards, visible)] == found


def test_a_worker_that_was_given_up_does_not_end_a_later_attempt(tmp_path: Path) -> None:
    write_job(JobSpec(tmp_path, "a:b", attempt=2))
    write_result(tmp_path, 1, "done", value={})
    assert read_result(tmp_path) is None
    assert json.loads((tmp_path / "result.1.json").read_text())["attempt"] == 1
    write_result(tmp_path, 2, "done", value={})
    assert (read_result(tmp_path, 2) or {})["state"] == "done"
