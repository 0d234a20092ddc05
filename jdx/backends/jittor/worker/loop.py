"""Takes orders until there are no more: reads a job, runs it, tells how it ended."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from data.faults import DataError
from jdx.backends.jittor.protocol import read_job
from jdx.backends.jittor.worker.tell import Answers, Tell
from jdx.disk import is_told
from jdx.errors import BackendError, ConfigError

JOBS = "jdx.backends.jittor.worker.jobs"
Run = Callable[[Any, Path, Tell], Any]


@dataclass(frozen=True)
class Setup:
    """How this worker computes. device: cpu or cuda; jobs: package of the modules that have `run`."""

    device: str = "cpu"
    dtype: str = "float32"
    jobs: str = JOBS


def serve(orders: TextIO, answers: Answers, setup: Setup) -> None:
    """Say that the worker is ready, then obey orders until their pipe is closed."""
    answers.say("ready", **started(setup))
    for line in orders:
        obey(json.loads(line), answers, setup)


def started(setup: Setup) -> dict[str, Any]:
    """Import Jittor (the first time it compiles itself) and set its device; returns what it is."""
    import jittor as jt
    import numpy

    jt.flags.use_cuda = int(setup.device == "cuda")
    versions = {"jittor": jt.__version__, "numpy": numpy.__version__, "python": sys.version.split()[0]}
    onednn = bool(getattr(jt.compile_extern, "use_mkl", False))
    return {"versions": versions, "onednn": onednn, "cuda": bool(jt.flags.use_cuda), "pid": os.getpid()}


def obey(order: Mapping[str, Any], answers: Answers, setup: Setup) -> None:
    """Run one order; whatever goes wrong becomes its answer, and the worker stays."""
    began = time.monotonic()
    try:
        folder, out = Path(order["folder"]), Path(order["out"])
        kind, job = read_job(folder)
        run: Run = importlib.import_module(f"{setup.jobs}.{kind}").run
        failed = run(job, out, Tell(answers, folder, setup.device, setup.dtype)) or {}
    except Exception as error:
        answers.say("error", order=order["order"], **told(error))
    else:
        stops = {style: [step, reason] for style, (step, reason) in failed.items()}
        answers.say("result", order=order["order"], failed=stops, seconds=time.monotonic() - began)


def told(error: Exception) -> dict[str, Any]:
    """An error as words: which kind it is for the caller, and its faults where it has some."""
    if isinstance(error, ConfigError):
        faults = [[fault.key, fault.value, fault.allowed] for fault in error.faults]
        return {"kind": "config", "message": str(error), "faults": faults, "what": error.what}
    if isinstance(error, DataError):
        faults = [[str(fault.path), fault.what, fault.remedy] for fault in error.faults]
        return {"kind": "data", "message": str(error), "faults": faults}
    if isinstance(error, BackendError):
        return {"kind": "backend", "message": str(error)}
    if isinstance(error, OSError) and is_told(error):
        file = None if error.filename is None else str(error.filename)
        return {"kind": "disk", "message": error.strerror, "errno": error.errno, "file": file}
    trace = "".join(traceback.format_exception(error))
    return {"kind": "crash", "message": f"{type(error).__name__}: {error}", "trace": trace}
