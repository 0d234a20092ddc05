"""Classes of failures, with the real libraries' own exceptions where this machine can raise them."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import pytest
import torch

from launcher import failures
from launcher.base import Kind
from launcher.failures import kind_of, kind_of_exit, more_kills, oom_kills


def test_torchs_own_lack_of_memory() -> None:
    assert kind_of(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")) is Kind.OOM
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert kind_of(caught.value) is Kind.OOM


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), Kind.OOM),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            Kind.OOM,
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Kind.OOM),
        (OSError(errno.ENOSPC, "No space left on device"), Kind.DISK_FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Kind.DISK_FULL),
        (RuntimeError("CUDA error: device-side assert triggered"), Kind.GPU_LOST),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), Kind.GPU_LOST),
        (RuntimeError("No CUDA-capable device is detected"), Kind.GPU_LOST),
        (ValueError("xid 79: out of memory"), Kind.RAISED),  # words count in runtime errors only
        (RuntimeError("shapes differ"), Kind.RAISED),
        (KeyboardInterrupt(), Kind.RAISED),
    ],
)
def test_kinds(error: BaseException, kind: Kind) -> None:
    assert kind_of(error) is kind


def wrapped(cut: bool) -> BaseException:
    """A lack of memory inside another error, as its cause, or cut off from it."""
    try:
        raise MemoryError
    except MemoryError as error:
        try:
            raise ValueError("a trial failed") from (None if cut else error)
        except ValueError as outer:
            return outer


def test_the_cause_counts_unless_it_was_cut_off() -> None:
    assert kind_of(wrapped(cut=False)) is Kind.OOM
    assert kind_of(wrapped(cut=True)) is Kind.RAISED
    assert kind_of(ExceptionGroup("some", [ValueError("a"), MemoryError()])) is Kind.OOM


@pytest.mark.parametrize(
    ("code", "kills", "kind", "words"),
    [
        (-signal.SIGKILL, 0, Kind.KILLED, "SIGKILL"),
        (-signal.SIGKILL, 1, Kind.OOM, "memory"),
        (-signal.SIGSEGV, 0, Kind.CRASHED, "SIGSEGV"),
        (-signal.SIGTERM, 0, Kind.KILLED, "SIGTERM"),
        (3, 0, Kind.CRASHED, "code 3"),
    ],
)
def test_exits(code: int, kills: int, kind: Kind, words: str) -> None:
    told, reason = kind_of_exit(code, kills)
    assert told is kind
    assert words in reason


def test_kills_are_counted_for_a_processs_own_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = tmp_path / "ours"
    ours.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    monkeypatch.setattr(failures, "_cgroup_files", lambda pid: [ours])
    before = oom_kills()
    assert before == {ours: 4}
    assert more_kills(before) == 0
    ours.write_text("oom_kill 5\n")
    assert more_kills(before) == 1
    monkeypatch.setattr(failures, "_cgroup_files", lambda pid: [tmp_path / "none"])
    assert list(oom_kills()) == [Path("/proc/vmstat")]
