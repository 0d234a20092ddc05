"""The program that runs jobs: `python -m launcher.worker FOLDER`, or `--serve` for one job after another.

It holds the folder's lease as long as the job runs, keeps the heartbeat, watches the time limit, writes the log and
the result, and ends what the job left running. It does not need its controller: when that dies, the job goes on.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from launcher import folder as files
from launcher import processes
from launcher.base import AlreadyRunningError, JobSpec, Kind
from launcher.channel import Channel
from launcher.failures import kind_of
from launcher.folder import Lease

DONE, FAILED, REFUSED, UNWRITTEN, EXPIRED = 0, 1, 75, 74, 124
"""Exit codes: done or stopped; failed; not started; the result could not be written; time limit."""
RESULT_PATIENCE = 300.0
"""Seconds to wait for room on a full disk before a finished job's result is given up."""

Function = Callable[[Path, Mapping[str, Any], Channel], Mapping[str, Any] | None]


class CancelledError(BaseException):
    """Raised in the job by SIGTERM, once: time to let go of things. Not an Exception: jobs do not catch it."""


class TargetError(ImportError):
    """The job's function cannot be imported."""


@dataclass
class _Attempt:
    """One run of one job, and the right to say how it ended (its own thread and the clock's compete for it)."""

    spec: JobSpec
    gpus: tuple[str, ...]
    start: float = field(default_factory=time.monotonic)
    over: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def finish(self, state: str, **content: Any) -> None:
        """Write the result, if nobody has; waits for room when the disk is full. Raises: OSError, TypeError."""
        with self.lock:
            if self.over:
                return
            content |= {
                "seconds": round(time.monotonic() - self.start, 3),
                "host": socket.gethostname(),
                "gpus": list(self.gpus),
            }
            _patiently(lambda: files.write_result(self.spec.folder, self.spec.attempt, state, **content))
            self.over = True


def _patiently(write: Callable[[], None]) -> None:
    deadline = time.monotonic() + RESULT_PATIENCE
    while True:
        try:
            return write()
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            _say(f"the result cannot be written ({error}): trying again")
            time.sleep(min(5.0, RESULT_PATIENCE / 10))


def execute(folder: Path, attempt: int | None = None, lease: Lease | None = None) -> int:
    """Run the job of a folder in this process, to its end; returns an exit code (see `DONE` and its neighbours).

    attempt: refuse to run if the folder is at another attempt by now; lease: taken already by who started us.
    Refused too: a folder that another process runs, and an attempt that has its result.
    """
    folder = folder.absolute()
    try:
        lease = lease or Lease.take(folder)
    except AlreadyRunningError as error:
        return _refuse(str(error))
    try:
        spec = files.read_job(folder)
        if attempt is not None and spec.attempt != attempt:
            return _refuse(f"{folder} is at attempt {spec.attempt}, not {attempt}")
        if files.read_result(folder, spec.attempt) is not None:
            return _refuse(f"{folder} has the result of attempt {spec.attempt} already")
        with _output_to(folder / files.LOG), _surroundings(spec.env):
            return _run(spec, lease)
    finally:
        lease.close()


def _say(text: str) -> None:
    """A line in the log; a full disk must not cost the job that has just told of it."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="replace"))


def _refuse(why: str) -> int:
    _say(f"not started: {why}")
    return REFUSED


def _run(spec: JobSpec, lease: Lease) -> int:
    held = files.read_lease(spec.folder, spec.attempt)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = held["gpus"] if "gpus" in held else visible.split(",")
    attempt = _Attempt(spec, tuple(gpu for gpu in gpus if gpu))
    lease.write(
        attempt=spec.attempt,
        pid=os.getpid(),
        born=processes.born(os.getpid()),
        host=socket.gethostname(),
        started=time.time(),
        gpus=list(attempt.gpus),
        tag=os.environ.get(processes.TAG, ""),
    )
    processes.set_title(f"jdx:{spec.name or spec.folder.name}")
    with _pulse(attempt):
        channel = Channel(spec.folder, spec.attempt, attempt.gpus)
        state, content = _call(spec, channel)
        left = processes.kill_children(spare=channel.kept)
        if left:
            _say(f"{left} processes that the job left running were ended")
        return _tell(attempt, state, content)


def _call(spec: JobSpec, channel: Channel) -> tuple[str, dict[str, Any]]:
    """Call the job's function; the end of it in words, whatever it is."""
    try:
        with _cancellable():
            function = _load(spec.target)
            value = function(spec.folder, spec.payload, channel)
        json.dumps(value)
    except BaseException as error:
        return "failed", {"error": _words(error)}
    return ("stopped" if channel.stopped else "done"), {"value": dict(value or {})}


def _words(error: BaseException) -> dict[str, str]:
    kind = kind_of(error)
    # Schedulers signal a job's children as well: what it raises for their deaths is the cancellation too.
    if _Cancel.heard or isinstance(error, (CancelledError, KeyboardInterrupt)):
        kind = Kind.CANCELLED
    elif kind is Kind.RAISED and isinstance(error, TargetError):
        kind = Kind.TARGET
    text = "".join(traceback.format_exception(error))
    _say(text)
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    error.__traceback__ = None  # its frames hold on to the job's data
    return {"kind": str(kind), "message": message, "traceback": text}


def _tell(attempt: _Attempt, state: str, content: dict[str, Any]) -> int:
    try:
        attempt.finish(state, **content)
    except OSError as error:
        _say(f"the result is lost: {error}")
        return UNWRITTEN
    return FAILED if state == "failed" else DONE


def _load(target: str) -> Function:
    module, _, path = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except Exception as error:
        raise TargetError(f"{target} cannot be imported: {error}") from error
    if not callable(found):
        raise TargetError(f"{target} is not a function but {type(found).__name__}")
    function: Function = found
    return function


class _Cancel:
    """What SIGTERM does: an exception inside the job, once; the end of the program between jobs."""

    armed = False
    inside = False
    heard = False
    """SIGTERM has come since the job began."""

    @classmethod
    def handler(cls, number: int, frame: object) -> None:
        cls.heard = True
        if cls.armed:
            cls.armed = False
            raise CancelledError("SIGTERM")
        if not cls.inside:
            raise SystemExit(128 + number)


@contextmanager
def _cancellable() -> Iterator[None]:
    _Cancel.heard = False
    _Cancel.armed = _Cancel.inside = True
    try:
        yield
    finally:
        _Cancel.armed = False


@contextmanager
def _pulse(attempt: _Attempt) -> Iterator[None]:
    """Heartbeat and time limit, on a thread of their own."""
    end = threading.Event()
    path = attempt.spec.folder / files.HEARTBEAT
    limit = attempt.spec.timeout

    def beat() -> None:
        while True:
            try:
                path.touch()
            except OSError as error:
                _say(f"no heartbeat: {error}")
            left = files.BEAT_EVERY
            if limit is not None:
                left = min(left, attempt.start + limit - time.monotonic())
            if left <= 0:
                _expire(attempt)
            if end.wait(max(left, 0.0)):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        _Cancel.inside = False


def _expire(attempt: _Attempt) -> None:
    """Time is up: where every thread was goes to the log, then the process ends with all it started."""
    with attempt.lock:  # when its children end, the job may fail of it: too late to say so
        if attempt.over:
            return
        message = f"ran longer than {attempt.spec.timeout:g} s"
        _say(f"{message}; it was here:")
        faulthandler.dump_traceback(all_threads=True)
        processes.kill_children(grace=0.5)
        attempt.finish("failed", error={"kind": str(Kind.TIMEOUT), "message": message, "traceback": ""})
        os._exit(EXPIRED)


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send stdout and stderr of this process and its children into a file, as long as the block lasts."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    try:
        yield
    finally:
        for stream, number, old in ((sys.stdout, 1, saved[0]), (sys.stderr, 2, saved[1])):
            with suppress(OSError, ValueError):  # a full disk, or a job that closed them
                stream.flush()
            os.dup2(old, number)
            os.close(old)


@contextmanager
def _surroundings(env: Mapping[str, str]) -> Iterator[None]:
    """Environment and current folder of the job; put back afterwards, whatever it did to them."""
    before, where, path = dict(os.environ), os.getcwd(), list(sys.path)
    os.environ.update(env)
    try:
        yield
    finally:
        os.chdir(where)
        sys.path[:] = path
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def serve(fd: int, idle: float) -> int:
    """Run the jobs that come through a socket until it closes, or none has come for `idle` seconds.

    One message is one job: `{"folder", "attempt"}` with the folder's lease as a file descriptor. The answer,
    `{"done", "attempt", "code", "rss"}`, may find nobody: then we end.
    """
    link = socket.socket(fileno=fd)
    while select.select([link], [], [], idle)[0]:
        try:
            data, fds, _, _ = socket.recv_fds(link, 1 << 16, 1)
        except OSError:
            return DONE
        if not data:
            return DONE
        order = json.loads(data)
        code = execute(Path(order["folder"]), order["attempt"], Lease(fds[0]))
        processes.set_title("jdx:idle")
        answer = {"done": order["folder"], "attempt": order["attempt"], "code": code, "rss": _largest()}
        try:
            link.send(json.dumps(answer).encode())
        except OSError:
            return code
    return DONE


def _largest() -> int:
    """Bytes in the memory of this process or of one that a job has left for the next, whichever has more."""
    ours = psutil.Process()
    sizes = [ours.memory_info().rss]
    for one in ours.children(recursive=True):
        with suppress(psutil.Error):
            sizes.append(one.memory_info().rss)
    return max(sizes)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m launcher.worker", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="a job's folder, with job.json")
    parser.add_argument("--attempt", type=int, help="refuse to run another attempt than this one")
    parser.add_argument("--serve", type=int, metavar="FD", help="take jobs from this socket instead")
    parser.add_argument(
        "--idle", type=float, default=600.0, help="with --serve: end after so many idle seconds"
    )
    parser.add_argument("--hold", type=int, nargs="*", default=[], help="locks to keep as long as we live")
    args = parser.parse_args(arguments)
    if (args.folder is None) == (args.serve is None):
        parser.error("give a folder, or --serve FD")
    for fd in args.hold:
        Lease(fd)
    faulthandler.enable()
    processes.become_subreaper()
    signal.signal(signal.SIGTERM, _Cancel.handler)
    if args.serve is not None:
        return serve(args.serve, args.idle)
    return execute(args.folder, args.attempt)


if __name__ == "__main__":
    from launcher import worker  # one module, not `__main__` and `launcher.worker`: jobs may import it

    raise SystemExit(worker.main())
