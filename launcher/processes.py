"""Process trees: who belongs to a job, and ending all of them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import psutil

TAG = "JDX_WORKER"
"""Environment variable that a worker's descendants inherit: finds those that left its session and its tree."""
PR_SET_CHILD_SUBREAPER = 36
PF_EXITING = 0x4


def born(pid: int) -> float | None:
    """When a process started (seconds since the epoch); with the pid this names it for good. None: it is gone."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def is_alive(pid: int, since: float | None) -> bool:
    """Whether that very process runs (a zombie does not)."""
    if pid <= 0:
        return False
    try:
        process = psutil.Process(pid)
        same = since is None or abs(process.create_time() - since) < 0.1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def is_exiting(pid: int) -> bool:
    """Whether a process is ending, ended or gone (Linux); it may free its memory for long before it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    flags = int(stat.rpartition(")")[2].split()[6])  # a name may hold blanks and brackets: count after it
    return bool(flags & PF_EXITING)


def members(pid: int, tag: str) -> list[psutil.Process]:
    """The process, its descendants, its session, and whatever carries its tag; without zombies and ourselves.

    pid 0: only what carries the tag (0 is also the session of processes from outside a container).
    """
    found: dict[int, psutil.Process] = {}
    if pid:
        with suppress(psutil.Error):
            root = psutil.Process(pid)
            found = {one.pid: one for one in (root, *root.children(recursive=True))}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if (pid and os.getsid(process.pid) == pid) or (tag and process.environ().get(TAG) == tag):
                found[process.pid] = process
    return [one for one in found.values() if one.pid != os.getpid() and _counts(one)]


def _counts(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def ask(pid: int, since: float | None) -> None:
    """SIGTERM to a worker: its job sees an exception. A stopped one is woken so that it can."""
    if is_alive(pid, since):
        for number in (signal.SIGTERM, signal.SIGCONT):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def kill_tree(pid: int, since: float | None, tag: str, patience: float = 10.0) -> bool:
    """SIGKILL everything that belongs to a worker until nothing is left; False if something stayed (state D).

    The pid is only trusted if it still is the process that started at `since`; the tag is trusted always.
    """
    deadline = time.monotonic() + patience
    while True:
        alive = members(pid if is_alive(pid, since) else 0, tag)
        if not alive:
            return True
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def kill_children(grace: float = 1.0, spare: Collection[int] = ()) -> int:
    """End all descendants of this process but those of `spare` and theirs; returns how many were ended.

    Not the helper of `multiprocessing` that watches over shared memory: it is one per process and ends with it.
    """
    left = strays(spare)
    for process in left:
        with suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(left, timeout=grace if left else 0)
    while left and (alive := strays(spare)):  # also what those have started meanwhile that are gone by now
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=grace)
    return len(left)


def strays(spare: Collection[int] = ()) -> list[psutil.Process]:
    """Descendants of this process that still run, but for those of `spare` and theirs."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    keeper = getattr(tracker, "_pid", None)
    try:
        children = psutil.Process().children(recursive=True)
    except psutil.Error:
        return []
    spared = {keeper, *spare}
    for one in children:
        if one.pid in spare:
            with suppress(psutil.Error):
                spared |= {below.pid for below in one.children(recursive=True)}
    return [one for one in children if one.pid not in spared and _counts(one)]


def become_subreaper() -> None:
    """Orphans among our descendants become our children instead of init's, so that `strays` finds them (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def set_title(name: str) -> None:
    """Name of this process in `ps` and `top`, 15 characters (Linux)."""
    with suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(name[:15])
