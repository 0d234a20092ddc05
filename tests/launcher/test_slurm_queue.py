"""Slurm's words in the contract's; answers as the manuals of squeue, scontrol and sacct show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher import slurm_queue
from launcher.base import Kind, State
from launcher.slurm_queue import Queue, Row, SlurmUnreachableError

# squeue(1) of Slurm 23.11, section JOB STATE CODES
MANUAL = [
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "CONFIGURING", "COMPLETING", "DEADLINE", "FAILED", "NODE_FAIL"),
    *(
        "OUT_OF_MEMORY",
        "PENDING",
        "PREEMPTED",
        "RUNNING",
        "RESV_DEL_HOLD",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "REQUEUED",
    ),
    *("RESIZING", "REVOKED", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED", "TIMEOUT"),
]


@pytest.mark.parametrize("word", MANUAL)
def test_every_state_of_the_manual_has_a_meaning(word: str) -> None:
    status = Row("1", word).status()
    assert status.over == Row("1", word).over


@pytest.mark.parametrize(
    ("word", "state", "kind"),
    [
        ("TIMEOUT", State.EXITED, Kind.TIMEOUT),
        ("OUT_OF_MEMORY", State.EXITED, Kind.OOM),
        ("CANCELLED", State.EXITED, Kind.CANCELLED),
        ("PREEMPTED", State.PREEMPTED, None),
        ("NODE_FAIL", State.LOST, None),
        ("COMPLETING", State.RUNNING, None),
        ("REQUEUED", State.PENDING, None),
    ],
)
def test_states_that_ask_for_a_decision(word: str, state: State, kind: Kind | None) -> None:
    status = Row("1", word).status()
    assert (status.state, status.kind) == (state, kind)


def test_a_state_of_a_later_slurm_counts_as_running_and_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for job in ("1", "2"):
        status = Row(job, "LEVITATING").status()
        assert (status.state, status.reason, status.over) == (State.RUNNING, "levitating", False)
    assert [record.message for record in caplog.records if "LEVITATING" in record.message] == [
        "Slurm tells a job state that is not known here, LEVITATING: such jobs count as running"
    ]


def test_sacct_is_asked_about_what_squeue_has_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def call(program: str, *arguments: str) -> str:
        asked.append(program)
        if program == "squeue":
            raise RuntimeError("squeue: slurm_load_jobs error: Invalid job id specified")
        return "7_0|COMPLETED|0:0\n7_1|CANCELLED by 1000|0:15\n8|FAILED|137:0\n9|OUT_OF_MEMORY|0:125\n"

    monkeypatch.setattr(slurm_queue, "call", call)
    rows = Queue(0.0).look(["7_0", "7_1", "8", "10"])
    assert asked == ["squeue", "sacct"]
    assert {job: (row.state, row.reason, row.code) for job, row in rows.items()} == {
        "7_0": ("COMPLETED", "", 0),
        "7_1": ("CANCELLED", "by 1000", -15),
        "8": ("FAILED", "", -9),
    }


def test_without_accounting_sacct_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def call(program: str, *arguments: str) -> str:
        asked.append(program)
        if program == "sacct":
            raise RuntimeError("sacct: Slurm accounting storage is disabled")
        return "5|RUNNING|None\n"

    monkeypatch.setattr(slurm_queue, "call", call)
    queue = Queue(0.0)
    assert queue.look(["5", "6"]) == {"5": Row("5", "RUNNING", "None")}
    queue.look(["5", "6"])
    assert asked == ["squeue", "sacct", "squeue"]


def test_one_glance_serves_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def call(*words: str) -> str:
        asked.append(words)
        return "5|RUNNING|None\n"

    monkeypatch.setattr(slurm_queue, "call", call)
    queue = Queue(60.0)
    for _ in range(3):
        assert queue.look(["5"])["5"].state == "RUNNING"
    assert len(asked) == 1
    queue.look(["5"], now=True)
    assert len(asked) == 2


def test_a_missing_answer_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(program: str, *arguments: str) -> str:
        raise SlurmUnreachableError("squeue: Unable to contact slurm controller (connect failure)")

    monkeypatch.setattr(slurm_queue, "call", call)
    with pytest.raises(SlurmUnreachableError):
        Queue(0.0).look(["5"])


def test_a_job_that_ends_while_it_is_cancelled_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "scancel"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    slurm_queue.cancel(["10", "11"], "KILL")
    program.write_text("#!/bin/sh\necho 'scancel: error: Access/permission denied' >&2\nexit 1\n")
    with pytest.raises(RuntimeError, match="denied"):
        slurm_queue.cancel(["10", "11"], "KILL")
