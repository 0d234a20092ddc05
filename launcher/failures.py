"""Why an attempt failed, told from its exception or its exit, without importing the libraries that raise."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from pathlib import Path

from jdx.disk import FULL
from launcher.base import Kind

OOM_WORDS = (
    "out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
)
GPU_LOST_WORDS = (
    "device-side assert",
    "unspecified launch failure",
    "illegal memory access",
    "illegal instruction was encountered",
    "misaligned address",
    "launch timed out",
    "no cuda-capable device",
    "device(s) is/are busy or unavailable",
    "all cuda-capable devices are busy",
    "uncorrectable ecc",
    "uncorrectable nvlink",
    "gpu is lost",
    "fallen off the bus",
    "xid",
    "cuda driver initialization failed",
    "cuda initialization: unexpected error",
    "driver/library version mismatch",
    "cuda error: unknown error",
    "hardware stack error",
    "context is destroyed",
)
"""Lower case; after these the CUDA context of the process is of no more use, and perhaps the card either."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes and contexts, nearest first."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        queue += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        if isinstance(one, BaseExceptionGroup):
            queue += one.exceptions


def kind_of(error: BaseException) -> Kind:
    """Class of a failure, from the whole chain of causes."""
    kinds = [_kind(one) for one in chain(error)]
    return next((kind for kind in kinds if kind is not Kind.RAISED), Kind.RAISED)


def _kind(error: BaseException) -> Kind:
    text = str(error).lower()
    if isinstance(error, OSError) and error.errno in FULL:
        return Kind.DISK_FULL
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return Kind.OOM
    if any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return Kind.OOM
    if isinstance(error, RuntimeError):
        if any(word in text for word in GPU_LOST_WORDS):
            return Kind.GPU_LOST
        if any(word in text for word in OOM_WORDS):
            return Kind.OOM
    return Kind.RAISED


def kind_of_exit(code: int, oom_kills: int) -> tuple[Kind, str]:
    """Class and words of an exit without a result; oom_kills: how often the kernel killed for memory meanwhile."""
    if code >= 0:
        return Kind.CRASHED, f"exited with code {code} and left no result"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if -code == signal.SIGKILL:
        if oom_kills > 0:
            return Kind.OOM, "killed by SIGKILL while the kernel was killing for lack of memory"
        return Kind.KILLED, "killed by SIGKILL"
    crashed = -code in {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGABRT,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGTRAP,
    }
    return (Kind.CRASHED if crashed else Kind.KILLED), f"ended by {name}"


Kills = dict[Path, int]
"""How often the kernel has killed for memory, by the file that counts it."""


def oom_kills(pid: int | str = "self") -> Kills:
    """The counters of a process's control groups; where there are none, the machine's."""
    counts = {path: count for path in _cgroup_files(pid) if (count := _count(path)) is not None}
    machine = Path("/proc/vmstat")
    return counts or {machine: _count(machine) or 0}


def more_kills(before: Kills) -> int:
    """How many there have been since, by the same counters."""
    return sum(max(0, (_count(path) or 0) - count) for path, count in before.items())


def _count(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    counts = [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]
    return counts[0] if counts else None


def _cgroup_files(pid: int | str) -> list[Path]:
    """memory.events.local (cgroup 2) and memory.oom_control (cgroup 1) of a process that is not ending yet."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        if number == "0":
            files.append(Path("/sys/fs/cgroup") / inside / "memory.events.local")
        elif "memory" in controllers.split(","):
            files.append(Path("/sys/fs/cgroup/memory") / inside / "memory.oom_control")
    return files
