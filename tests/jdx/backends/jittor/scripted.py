"""A worker whose jobs do as they are told: the real loop, pipes and watching process, with or without real Jittor."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from textwrap import dedent

from jdx.backends.base import GenerateJob, ModelSpec, SamplerSpec
from jdx.backends.jittor.process import Patience, Worker
from jdx.backends.jittor.protocol import write_job

FAKE_JITTOR = """
    __version__ = "0.0"
    class flags: use_cuda = 0
    class compile_extern: use_mkl = False
"""

# The job's model path is the script's file: one Python statement list with job, out, tell in reach.
JOB = """
    from pathlib import Path

    def run(job, out, tell):
        names = {"job": job, "out": out, "tell": tell, "Path": Path}
        exec(Path(job.model.path).read_text(), names)
        return names.get("failed")
"""
START = """
    import sys
    sys.path.insert(0, {path!r})
    from jdx.backends.jittor.worker.__main__ import main
    main()
"""


def start(
    folder: Path,
    *,
    python: Path = Path(sys.executable),
    env: dict[str, str] | None = None,
    fake: bool = True,
    patience: Patience | None = None,
) -> Worker:
    """A worker with scripted jobs; fake: with a stand-in for the module jittor. Its files go below `folder`."""
    path = folder / "scripted"
    (path / "told_jobs").mkdir(parents=True, exist_ok=True)
    (path / "told_jobs" / "__init__.py").touch()
    for kind in ("encode", "train", "generate", "stylise"):
        (path / "told_jobs" / f"{kind}.py").write_text(dedent(JOB))
    if fake:
        (path / "jittor.py").write_text(dedent(FAKE_JITTOR))
    starter = path / "start.py"
    starter.write_text(dedent(START.format(path=str(path))))
    command = [str(python), "-P", str(starter), "--jobs", "told_jobs"]
    return Worker(command, {**os.environ, **(env or {})}, patience or Patience(60.0, 60.0))


def job(folder: Path, script: str, name: str = "order") -> Path:
    """An order's folder whose job runs `script`."""
    order = folder / name
    order.mkdir(exist_ok=True)
    (order / "script.py").write_text(dedent(script))
    write_job(order, GenerateJob(ModelSpec(str(order / "script.py")), SamplerSpec("ddim", 1, 1.0), 64, ()))
    return order
