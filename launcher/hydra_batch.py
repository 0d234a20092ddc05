"""One batch for a Hydra launcher: `python -m launcher.hydra_batch BATCH.json`, in a process of its own.

Hydra's launchers run a task function over lists of overrides and return when all are done. Here the task is "run the
job of this folder", in a worker process, whatever the launcher is: so a job keeps its lease, log, time limit and
result, and the launcher only decides where and how many at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from launcher import processes
from launcher.base import AlreadyRunningError, Kind
from launcher.failures import kind_of_exit, more_kills, oom_kills
from launcher.folder import read_json, read_result, tell_failure
from launcher.warm import with_path
from launcher.worker import REFUSED

CANCELLED = ".hydra_cancelled.json"
"""In a job's folder, written before the executor kills it: which attempt, and the words for it."""


def run_folder(config: DictConfig) -> int:
    """The task function: run one job in a worker; an end that the worker could not tell is told for it."""
    folder, attempt = Path(config.jdx_job.folder), int(config.jdx_job.attempt)
    before = oom_kills()
    command = [sys.executable, "-m", "launcher.worker", str(folder), "--attempt", str(attempt)]
    tag = uuid.uuid4().hex  # its own: a kill of it must not take the batch
    env = with_path({**os.environ, processes.TAG: tag})
    code = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, start_new_session=True, check=False
    ).returncode
    processes.kill_tree(0, None, tag)  # what it left, killed or out of time
    if code != REFUSED and read_result(folder, attempt) is None:
        kind, reason = kind_of_exit(code, more_kills(before))
        cancelled = read_json(folder / CANCELLED) or {}
        if cancelled.get("attempt") == attempt:
            kind, reason = Kind.CANCELLED, str(cancelled["reason"])
        with suppress(AlreadyRunningError):  # somebody has submitted it again meanwhile
            tell_failure(folder, attempt, kind, reason, code=code)
    return code


def launch(batch: Path) -> None:
    """Compose the launcher that the batch names, without the application's own configuration, and run its jobs."""
    content = json.loads(batch.read_text(encoding="utf-8"))
    setup_globals()
    Plugins.instance()  # registers where configurations come from
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    path.append("schema", "structured://")
    loader = ConfigLoaderImpl(path)
    words = [f"hydra/launcher={content['launcher']}", "hydra/sweeper=basic", *content["overrides"]]
    words += [f"hydra.sweep.dir='{batch.parent / 'hydra'}'", "hydra.sweep.subdir=${hydra.job.num}",
              "hydra.job.chdir=false", "hydra.output_subdir=null",
              "hydra/job_logging=none", "hydra/hydra_logging=none"]  # fmt: skip
    config = loader.load_configuration(None, words, run_mode=RunMode.MULTIRUN)
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=run_folder, config=config
    )
    launcher.launch([_overrides(job) for job in content["jobs"]], initial_job_idx=content["first"])


def _overrides(job: dict[str, object]) -> Sequence[str]:
    folder = str(job["folder"]).replace("\\", "\\\\").replace("'", "\\'")
    return [f"+jdx_job.folder='{folder}'", f"+jdx_job.attempt={job['attempt']}"]


if __name__ == "__main__":
    from launcher import hydra_batch  # launchers pickle the task: its module must not be `__main__`

    hydra_batch.launch(Path(sys.argv[1]))
