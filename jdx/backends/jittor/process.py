"""The worker as this process sees it: started, ordered, listened to, and ended with all that it started."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import stat
import subprocess
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from jdx import ROOT
from jdx.backends.base import TrainOutcome
from jdx.backends.jittor.hearing import Hearing, Tasks, error_of, hear
from jdx.errors import BackendError
from jdx.progress import Progress
from jdx.workspaces import lock_of, sweep, workspace

log = logging.getLogger(__name__)

TICK = 0.5
"""Seconds between two looks at whether the worker still runs."""
DRAIN = 10.0
"""Seconds for reading what a dead worker has printed; without end only where something of it has left its group."""
STARTING, WORKING = "starting (Jittor compiles itself at the first start)", "working"
SHOWN = 15
"""Last lines of a worker's output that an error shows."""
PACKAGES = ("jdx", "data", "evaluation", "launcher", "sweeps")
"""What the worker may import of this project: jdx and data; the others because jdx looks for its siblings."""


FOLDERS = "jdx-jittor-"
"""How the names of workers' private folders begin, in the folder for temporary files."""


@dataclass(frozen=True)
class Patience:
    """Seconds without a word from the worker after which it is given up: while it starts, and in a job.

    Jittor compiles itself at the first start of a home, and each operation at its first use.
    """

    start: float = 3600.0
    job: float = 1800.0


@dataclass
class _Silence:
    """Seconds since the worker last said something. Time in which we were stopped ourselves does not count."""

    allowed: float
    seconds: float = 0.0
    looked: float = field(default_factory=time.monotonic)

    def heard(self) -> None:
        self.seconds, self.looked = 0.0, time.monotonic()

    def goes_on(self) -> bool:
        """Count the time since the last look; whether it is still bearable."""
        now = time.monotonic()
        self.seconds += min(now - self.looked, 4 * TICK)
        self.looked = now
        return self.seconds < self.allowed


def import_path(folder: Path) -> Path:
    """A folder with links to this project's packages: installed, they lie beside libraries of another interpreter."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        if (ROOT / name).is_dir() and not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    return folder


def _left(temporary: Path) -> Iterator[Path]:
    """Private folders of this user's workers, ours of now or left by a killed trial; only those that have a lock."""
    for folder in temporary.glob(f"{FOLDERS}*"):
        with suppress(OSError):
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and lock_of(folder).exists():
                yield folder


class Worker:
    """A process in the Jittor interpreter that takes one order after the other until it is closed.

    command: interpreter and arguments before the pipes' numbers. env: its whole environment. Raises: BackendError
    when it does not come up.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], patience: Patience):
        self._patience, self._orders_sent = patience, 0
        self._tail: deque[str] = deque(maxlen=SHOWN)
        self._unread = b""
        self._told: deque[dict[str, Any]] = deque()
        self._closing = ExitStack()
        temporary = Path(tempfile.gettempdir())
        sweep(_left(temporary))
        named = temporary / f"{FOLDERS}{uuid.uuid4().hex}"
        self._folder = self._closing.enter_context(workspace(named, mode=0o700))
        path = str(import_path(self._folder / "path"))
        try:
            self._start(command, {**env, "PYTHONPATH": path})
            self.ready = self._wait_ready()
        except BaseException:
            self.end()
            raise

    def _start(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        their_orders, orders = os.pipe()
        answers, their_answers = os.pipe()
        their_life, self._life = os.pipe()
        theirs = (their_orders, their_answers, their_life)
        self._orders: IO[bytes] = os.fdopen(orders, "wb", buffering=0)
        self._answers = answers
        named = (f"--{name}={fd}" for name, fd in zip(("orders", "answers", "life"), theirs, strict=True))
        try:
            self._process = subprocess.Popen(
                [*command, *named],
                env=dict(env),
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # ctrl-C is ours: the worker must not die in the middle of an answer
            )
        except OSError as error:
            raise BackendError(f"{command[0]} cannot be started: {error.strerror or error}") from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        assert self._process.stdout is not None
        self._drainer = threading.Thread(target=self._drain, args=[self._process.stdout], daemon=True)
        self._drainer.start()

    def _drain(self, output: IO[bytes]) -> None:
        """Keep the last lines of what the worker and its compilers print; all of it goes to the log's details.

        Of a bar that was drawn over itself, as Jittor's of its compilers, the last state.
        """
        with suppress(ValueError):  # closed at the end
            for raw in output:
                line = raw.decode(errors="replace").rstrip().rpartition("\r")[2]
                if line:
                    self._tail.append(line)
                    log.debug("jittor: %s", line)

    def _wait_ready(self) -> dict[str, Any]:
        said = next(self._listen(self._patience.start, STARTING))
        if said["say"] != "ready":
            raise BackendError(f"the Jittor worker began with {said} instead of being ready")
        return said

    @property
    def folder(self) -> Path:
        """A private folder that goes with the worker."""
        return self._folder

    @property
    def pid(self) -> int:
        """The worker's process id, which is its process group's too."""
        return self._process.pid

    def order(self, folder: Path, out: Path, progress: Progress, hearing: Hearing) -> TrainOutcome:
        """Have the job in `folder` done; what was finished before an error has been handed over by then.

        Raises: what the job raised (ConfigError, DataError, BackendError, OSError of a disk); BackendError when the
        worker dies or falls silent. The worker stays after an answer only: whatever else is raised, by a listener
        too, ends it.
        """
        self._orders_sent += 1
        line = {"order": self._orders_sent, "folder": str(folder.absolute()), "out": str(out.absolute())}
        answered = False
        try:
            with Tasks(progress) as tasks:
                try:
                    self._orders.write(json.dumps(line).encode() + b"\n")
                except BrokenPipeError:
                    log.debug("the Jittor worker has ended: told when its answer is read")
                for said in self._listen(self._patience.job, WORKING):
                    if said["say"] == "result":
                        failed = {
                            style: (int(step), str(why)) for style, (step, why) in said["failed"].items()
                        }
                        return TrainOutcome(failed, said["seconds"])
                    if said["say"] == "error":
                        answered = said["kind"] != "crash"
                        raise error_of(said)
                    hear(said, tasks, hearing)
        except BaseException:
            if not answered:
                self.end()
            raise
        raise AssertionError("unreachable: listening ends by an answer or an error")

    def _listen(self, allowed: float, doing: str) -> Iterator[dict[str, Any]]:
        """What the worker says, line by line. Raises: BackendError when it dies or is silent for too long."""
        silence = _Silence(allowed)
        while True:
            while self._told:
                silence.heard()
                yield self._told.popleft()
                silence.heard()  # the listener's time is not the worker's
            if self._read():
                continue
            if self._process.poll() is not None and not self._read():
                raise BackendError(self._death(doing))
            if not silence.goes_on():
                self.end()
                raise BackendError(self._with_tail(_too_silent(allowed, doing)))

    def _read(self) -> bool:
        """Take what has come; False when nothing did within a tick."""
        waiting = select.poll()  # not select(), which knows no descriptor above 1023
        waiting.register(self._answers, select.POLLIN)
        if not waiting.poll(TICK * 1000):
            return False
        data = os.read(self._answers, 1 << 16)
        if not data:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(TICK)
            return False
        *lines, self._unread = (self._unread + data).split(b"\n")
        self._told.extend(json.loads(line) for line in lines)
        return True

    def _death(self, doing: str) -> str:
        self.end()
        self._drainer.join(DRAIN)  # its last lines are the ones that matter
        code = self._process.returncode
        how = f"by {_signal_name(-code)}" if code < 0 else f"with exit code {code}"
        hint = ""
        if code == -signal.SIGKILL:
            hint = "; the system may have run out of memory: fewer pictures in one pass (backend.draw_batch) need less"
        return self._with_tail(
            f"the Jittor worker ended {how} while {doing}{hint}. What it had finished is kept; "
            "the same command goes on from there"
        )

    def _with_tail(self, text: str) -> str:
        lines = "".join(f"\n  | {line}" for line in list(self._tail))
        return f"{text}. Its last lines:{lines}" if lines else f"{text}. It had printed nothing"

    def end(self) -> None:
        """End the worker and everything it started. Safe to call again."""
        process = getattr(self, "_process", None)
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._answers >= 0:
            os.close(self._answers)
            os.close(self._life)
            self._answers = self._life = -1
        self._orders.close()
        self._closing.close()

    @property
    def ended(self) -> bool:
        """Whether it takes no more orders."""
        return self._answers < 0 or self._process.poll() is not None


def _too_silent(allowed: float, doing: str) -> str:
    setting = "backend.compile_timeout" if doing == STARTING else "backend.timeout"
    return (
        f"the Jittor worker said nothing for {allowed:g} s while {doing} and was ended; if the machine is only slow, "
        f"raise {setting} (seconds)"
    )


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
