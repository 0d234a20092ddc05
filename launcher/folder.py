"""The files of a job's folder, for both sides. The folder is the write-ahead log of what happened to the job.

job.json      the spec, written before anything starts
lease         locked (flock) by the worker as long as it runs; says pid, host, attempt, cards
heartbeat     its mtime is renewed every two seconds
events.jsonl  one line per event, over all attempts
stop          its existence asks the job to end early
result.json   how the attempt ended; result.N.json of earlier ones
log.txt       stdout and stderr of the attempt; log.N.txt of earlier ones
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from launcher.base import AlreadyRunningError, JobSpec, Kind, State, Status

JOB = "job.json"
LEASE = "lease"
HEARTBEAT = "heartbeat"
EVENTS = "events.jsonl"
STOP = "stop"
RESULT = "result.json"
LOG = "log.txt"

BEAT_EVERY = 2.0
"""Seconds between two heartbeats."""
PATIENCE = 2.0
"""Seconds to try for a lease: somebody who asks whether it is held holds it for a moment."""


def write_atomic(path: Path, text: str) -> None:
    """Write beside, flush to disk, replace: a reader sees the old file or the new one, never half of it."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping in a file; None when the file is absent or is not (yet) one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


class Lease:
    """The right to run a job: a lock on the file `lease`, freed by the kernel however its holder ends.

    The lock belongs to the open file, not to the process: handed over to another process (inherited, or sent through
    a socket) it stays held without a gap. A fork of the holder drops it (see `after_fork`).
    """

    _held: ClassVar[set[Lease]] = set()

    def __init__(self, fd: int):
        self.fd = fd
        os.set_inheritable(fd, False)
        Lease._held.add(self)

    @staticmethod
    def take(folder: Path, patience: float = PATIENCE) -> Lease:
        """Raises: AlreadyRunningError with who holds it."""
        fd = os.open(folder / LEASE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return Lease(fd)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(fd)
                    holder = read_json(folder / LEASE) or {}
                    who = ", ".join(f"{k} {holder[k]}" for k in ("pid", "host", "attempt") if k in holder)
                    raise AlreadyRunningError(f"{folder} is being run already ({who or 'unknown'})") from None
                time.sleep(0.01)

    def write(self, **content: Any) -> None:
        """Say who holds it: in one write, blanks over what is longer, so that nobody ever reads that nobody does."""
        text = json.dumps(content).encode()
        os.pwrite(self.fd, text.ljust(os.fstat(self.fd).st_size), 0)

    def close(self) -> None:
        """Let go; the lock is free once every copy of the open file is closed."""
        if self in Lease._held:
            Lease._held.discard(self)
            os.close(self.fd)

    @classmethod
    def after_fork(cls) -> None:
        """A job's forked children must not keep its lease: the worker's death has to be seen at once."""
        for lease in tuple(cls._held):
            with suppress(OSError):
                lease.close()


os.register_at_fork(after_in_child=Lease.after_fork)


def is_held(folder: Path) -> bool:
    """Whether somebody holds the lease. On a file system without flock (some NFS) use `heartbeat_age`."""
    try:
        fd = os.open(folder / LEASE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def read_lease(folder: Path, attempt: int | None = None) -> dict[str, Any]:
    """Who holds or last held the lease: attempt, host, gpus, pid, born, tag and, once its job has begun, started.

    attempt: only if it is that one's, else nothing.
    """
    lease = read_json(folder / LEASE) or {}
    return lease if attempt is None or lease.get("attempt") == attempt else {}


def heartbeat_age(folder: Path) -> float | None:
    """Seconds since the last heartbeat by this machine's clock; None before the first."""
    try:
        return max(0.0, time.time() - (folder / HEARTBEAT).stat().st_mtime)
    except FileNotFoundError:
        return None


def write_job(spec: JobSpec) -> None:
    """Put the spec into its folder and an earlier attempt's files out of the way. Hold the lease while calling.

    Raises: ValueError when the payload is not JSON, FileNotFoundError when the folder is absent.
    """
    content = asdict(spec) | {"folder": str(spec.folder.absolute())}
    try:
        text = json.dumps(content, indent=1)
    except TypeError as error:
        raise ValueError(f"job {spec.name or spec.folder}: the payload is not JSON-able: {error}") from None
    earlier = read_json(spec.folder / JOB)
    if earlier is not None and (earlier["attempt"] != spec.attempt or (spec.folder / RESULT).exists()):
        for name in (RESULT, LOG):
            _set_aside(spec.folder / name, earlier["attempt"])
    (spec.folder / HEARTBEAT).unlink(missing_ok=True)
    write_atomic(spec.folder / JOB, text)


def _set_aside(path: Path, attempt: int) -> None:
    """log.txt to log.N.txt; a second submission of one attempt gets its own name."""
    aside = path.with_name(f"{path.stem}.{attempt}{path.suffix}")
    while aside.exists():
        aside = aside.with_name(f"{aside.stem}b{aside.suffix}")
    with suppress(FileNotFoundError):
        path.rename(aside)


def read_job(folder: Path) -> JobSpec:
    """The spec in a folder. Raises: FileNotFoundError, ValueError."""
    path = folder / JOB
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        return JobSpec(**content | {"folder": folder})
    except TypeError as error:
        raise ValueError(f"{path} is not a job: {error}") from None


def read_result(folder: Path, attempt: int | None = None) -> dict[str, Any] | None:
    """How the job ended, or None; attempt: only if it is that one's result."""
    result = read_json(folder / RESULT)
    if result is None or (attempt is not None and result.get("attempt") != attempt):
        return None
    return result


def write_result(folder: Path, attempt: int, state: str, **content: Any) -> None:
    """result.json, whole or not at all. Raises: TypeError when the value is not JSON-able, OSError.

    A worker that everybody took for dead (a node cut off from its cluster) must not end a later attempt: when job.json
    is at one, the result goes to result.N.json.
    """
    result: Mapping[str, Any] = {"attempt": attempt, "state": state, **content}
    late = (read_json(folder / JOB) or {}).get("attempt", attempt) > attempt
    write_atomic(folder / (f"result.{attempt}.json" if late else RESULT), json.dumps(result, indent=1) + "\n")


def tell_failure(folder: Path, attempt: int, kind: Kind, message: str, **content: Any) -> None:
    """The end of an attempt whose worker can no longer tell it; nothing, if somebody has told it by now.

    Looked at under the lease: who kills a worker and who has waited for its end both tell, and the first word stays.
    Raises: AlreadyRunningError while the job runs (again), OSError.
    """
    lease = Lease.take(folder)
    try:
        if read_result(folder, attempt) is None:
            error = {"kind": str(kind), "message": message, "traceback": ""}
            write_result(folder, attempt, "failed", error=error, **content)
    finally:
        lease.close()


def read_events(folder: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Events from a byte offset on, and the offset behind them; a line without an end is left for later."""
    try:
        with (folder / EVENTS).open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], offset + len(whole)


def ask_to_stop(folder: Path) -> None:
    """Ask the job to end early, with what it has."""
    (folder / STOP).touch()


def status_of(folder: Path, attempt: int) -> Status | None:
    """What the folder's own files say about an attempt; None: not started, or ended without a result.

    The lease is looked at first: whoever lets go of it has written the result before.
    """
    held, lease = is_held(folder), read_lease(folder, attempt)
    if held and lease:
        return Status(State.RUNNING, started=lease.get("started"), gpus=tuple(lease.get("gpus", ())))
    return end_of(folder, attempt)


def end_of(folder: Path, attempt: int) -> Status | None:
    """How an attempt ended by its own word; None: it left none.

    For who knows that its worker has let go: `status_of` would take anybody who holds the lease for a moment for it.
    """
    result = read_result(folder, attempt)
    if result is None:
        return None
    error = result.get("error") or {}
    kind = Kind(error["kind"]) if error.get("kind") in set(Kind) else (Kind.RAISED if error else None)
    return Status(
        State.EXITED,
        1 if error else 0,
        error.get("message", ""),
        read_lease(folder, attempt).get("started"),
        tuple(result.get("gpus", ())),
        kind,
    )
