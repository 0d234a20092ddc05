"""JITTOR_HOME: where Jittor keeps what it compiled. One process compiles it, the others wait."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import logging
import os
import platform
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from jdx.backends.jittor.interpreter import Interpreter
from jdx.backends.jittor.machine import compiler
from jdx.backends.jittor.worker import watch
from jdx.errors import BackendError

log = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds between two looks at a lock's owner."""
JITTORS_LOCKS = ".cache/jittor/*/*/*/*/*/*/jittor.lock"

# Arrays are looked at because a wrong NumPy shows nowhere else; a convolution, because it is compiled in its own way.
CHECK = """
import numpy as np, jittor as jt
given = np.arange(6, dtype=np.float32).reshape(2, 3)
got = (jt.array(given) * 2).numpy()
if not np.array_equal(got, given * 2):
    raise SystemExit("Jittor's arrays hold %r instead of %r: its NumPy does not fit" % (got, given * 2))
x = jt.nn.conv2d(jt.ones((1, 1, 4, 4)), jt.ones((1, 1, 3, 3)), padding=1)
if abs(float(x.sum().numpy()) - 100.0) > 1e-3:
    raise SystemExit("Jittor's convolution is wrong: %r" % (x.numpy(),))
"""


def default_home() -> Path:
    """`$JDX_JITTOR`, else `~/.cache/jdx/jittor`."""
    return Path(os.environ.get("JDX_JITTOR") or "~/.cache/jdx/jittor").expanduser()


def is_compiled(home: Path, found: Interpreter, env: Mapping[str, str]) -> bool:
    """Whether Jittor has compiled itself in this home for this interpreter, compiler and machine."""
    return _stamp(home, found, env).is_file()


def compile_first(home: Path, found: Interpreter, env: Mapping[str, str], limit: float) -> None:
    """Have Jittor compile itself, once per home; other processes wait meanwhile. Takes one to two minutes.

    limit: seconds for all of it. Raises: BackendError with the last lines when it fails or takes longer.
    """
    with locked(home):
        if is_compiled(home, found, env):
            return
        free_stale(home)
        log.info("Jittor compiles itself in %s (once)", home)
        _run_check(found, env, limit)
        _stamp(home, found, env).write_text(json.dumps({"interpreter": str(found.executable)}))


def _stamp(home: Path, found: Interpreter, env: Mapping[str, str]) -> Path:
    cc = compiler(env) or ""
    version = (
        subprocess.run([cc, "--version"], capture_output=True, text=True, check=False).stdout if cc else ""
    )
    parts = (
        *(
            str(found.executable),
            str(found.python),
            found.packages.get("jittor", ""),
            version.partition("\n")[0],
        ),
        *(platform.platform(), platform.node(), platform.processor()),
        *(env.get(name, "") for name in ("nvcc_path", "use_mkl", "cache_name")),
    )
    return home / f"compiled-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}.json"


def _run_check(found: Interpreter, env: Mapping[str, str], limit: float) -> None:
    """Import Jittor and look at its numbers, in a process that ends with us, whatever ends us."""
    life, ours = os.pipe()
    try:
        _checked(found, env, limit, life)
    finally:
        os.close(life)
        os.close(ours)


def _checked(found: Interpreter, env: Mapping[str, str], limit: float, life: int) -> None:
    process = subprocess.Popen(
        [str(found.executable), "-c", f"{inspect.getsource(watch)}\nend_with({life})\n{CHECK}"],
        env=dict(env),
        pass_fds=[life],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise BackendError(
            f"Jittor was still compiling itself after {limit:g} s; if the machine is only slow, raise "
            "backend.compile_timeout (seconds)"
        ) from None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its compilers, when we are interrupted
        process.wait()
    if process.returncode:
        lines = "\n".join(f"  | {line}" for line in output.strip().splitlines()[-12:])
        raise BackendError(f"Jittor does not start with {found.executable}:\n{lines}")


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the home alone. A lock whose owner is dead is said and taken over; a living owner is waited for.

    The kernel frees a dead process's lock, but not while something that it started has the file open still.
    """
    home.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        with (home / "compile.mutex").open("a+") as alone:
            # Nobody looks between lock and signature, where the note is the last owner's, nor takes over what is new.
            fcntl.flock(alone, fcntl.LOCK_EX)
            lock, owner = _take(home / "compile.lock")
        if lock is not None:
            with lock:
                try:
                    yield
                finally:
                    lock.truncate(0)  # nobody's any more; closing gives it back
            return
        if owner and not told:
            log.warning("waiting for process %s on %s, which compiles Jittor", owner["pid"], owner["host"])
            told = True
        time.sleep(PATIENCE)


def _take(path: Path) -> tuple[IO[str] | None, Mapping[str, object] | None]:
    """The lock, signed, or else who holds it; from a dead owner it is taken over."""
    while True:
        file = path.open("a+")
        if _taken(file, path):
            _sign(file)
            return file, None
        file.close()
        owner = _owner(path)
        if owner is None or not _is_dead(owner):
            return None, owner
        log.warning(
            "%s is held for process %s, which is gone: something that it started lives on; it is taken over",
            *(path, owner["pid"]),
        )
        path.unlink(missing_ok=True)


def _taken(file: IO[str], path: Path) -> bool:
    """Lock a file, if nobody holds it and it still is the one that others would look at."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _sign(file: IO[str]) -> None:
    us = psutil.Process()
    file.truncate(0)
    file.write(json.dumps({"pid": us.pid, "host": platform.node(), "started": us.create_time()}))
    file.flush()


def _owner(path: Path) -> dict[str, object] | None:
    try:
        owner: dict[str, object] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return owner if {"pid", "host", "started"} <= owner.keys() else None


def _is_dead(owner: Mapping[str, object]) -> bool:
    """Whether the process that wrote the note is gone; of another machine nobody knows."""
    if owner["host"] != platform.node():
        return False
    try:
        process = psutil.Process(int(str(owner["pid"])))
        same = abs(process.create_time() - float(str(owner["started"]))) < 1.0
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def free_stale(home: Path) -> None:
    """Remove locks of Jittor's own that outlived the process which took them; with one, it would wait for ever."""
    for path in home.glob(JITTORS_LOCKS):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = _holder(os.fstat(file.fileno()))
                if holder and not psutil.pid_exists(holder):
                    log.warning(
                        "Jittor's lock %s is held for process %d, which is gone: it is taken over",
                        path,
                        holder,
                    )
                    path.unlink(missing_ok=True)


def _holder(stat: os.stat_result) -> int | None:
    """The process that took the lock of a file, from the kernel's table; None when it does not say."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    found = [line.split() for line in lines if f" {place} " in line and "FLOCK" in line and "->" not in line]
    return int(found[0][4]) if found else None
