"""The end of a worker whose trial is gone."""

from __future__ import annotations

import os
import signal


def end_with(life: int) -> None:
    """Start a process that kills this one's group (compilers too) once the pipe `life` has no writer any more.

    A process and not a thread: Jittor holds the interpreter's lock while it computes and compiles. To be called
    first, before there are threads, and in a session of the worker's own.
    """
    if os.fork():
        os.close(life)
        return
    try:
        for descriptor in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else range(256):
            if int(descriptor) != life:
                _close(int(descriptor))
        # A signal for the group is meant for the worker; this process goes with it, by its own SIGKILL.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while os.read(life, 1):
            continue
    finally:
        os.killpg(0, signal.SIGKILL)


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        return  # the listing's own
