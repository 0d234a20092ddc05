"""A trial in its worker: the composed configuration comes in with the job, Hydra runs the task on it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.conf import HydraConf
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobRuntime, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from data.faults import DataError
from jdx import shards
from jdx.errors import ConfigError, Fault
from jdx.observer import Observer, SweepRun, watched
from launcher.channel import Channel
from sweeps.attempts import DATA, SETTINGS
from sweeps.scores import shuffled

TARGET = "sweeps.job:run"


def task_of(function: TaskFunction) -> dict[str, str]:
    """Where a task function can be found by another process. Raises: ConfigError when it cannot."""
    module = sys.modules.get(function.__module__)
    name = function.__module__
    spec = getattr(module, "__spec__", None)
    if name == "__main__" and spec is not None:
        name = (
            str(spec.name).removesuffix(".__main__")
            if not str(spec.name).endswith("__main__")
            else str(spec.name)
        )
    file = inspect.getsourcefile(function) or ""
    qualified = getattr(function, "__qualname__", "")
    if not qualified or "<" in qualified:
        remedy = "must be a function at the top of a module: the trials run in other processes"
        raise ConfigError([Fault("task function", qualified, remedy)], what="sweep")
    where = {"file": str(Path(file).resolve()), "path": sys.path[0] or os.getcwd()}
    return {"module": name, "function": qualified, **where}


def load_task(task: Mapping[str, str]) -> TaskFunction:
    """The task function itself, without `hydra.main` around it."""
    if task["path"] not in sys.path:
        sys.path.insert(0, task["path"])
    if task["module"] == "__main__":  # a script: loaded from its file, under a name of its own
        name = f"_jdx_task_{Path(task['file']).stem}"
        module = sys.modules.get(name)
        if module is None:
            spec = importlib.util.spec_from_file_location(name, task["file"])
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    else:
        module = importlib.import_module(task["module"])
    found: Any = module
    for part in task["function"].split("."):
        found = getattr(found, part)
    function: TaskFunction = inspect.unwrap(found)
    return function


class Reporter(Observer):
    """Passes a trial's scores on to the sweep, and the sweep's wish to stop on to the trial."""

    def __init__(self, channel: Channel, run: SweepRun, shuffle: bool):
        self.channel, self.run, self.shuffle = channel, run, shuffle

    def order(self, styles: Sequence[str]) -> Sequence[str]:
        assert self.run is not None
        return shuffled(styles, f"{self.run.study}-{self.run.trial}") if self.shuffle else styles

    def style(self, style: str, index: int, score: float) -> None:
        self.channel.event({"kind": "style", "style": style, "index": index, "score": score})

    def snapshot(self, step: int, score: float) -> None:
        self.channel.event({"kind": "snapshot", "step": step, "score": score})

    def stopping(self) -> bool:
        return self.channel.stopping()


def run(folder: Path, payload: Mapping[str, Any], channel: Channel) -> Mapping[str, Any]:
    """The job: what the task returns, its run folder, and the metrics that are objectives."""
    task = load_task(payload["task"])
    setup_globals()
    config = _config(payload["config"])
    who = SweepRun(payload["study"], payload["number"], channel.attempt, payload["seed"])
    try:
        with watched(Reporter(channel, who, payload["shuffle"])):
            ended = _run_job(task, config)
            value = _plain(ended.return_value)
    except ConfigError as error:
        faults = "; ".join(" ".join(str(fault).split()) for fault in error.faults)
        return {"failed": {"kind": SETTINGS, "message": faults or str(error)}}
    except DataError as error:
        return {"failed": {"kind": DATA, "message": "; ".join(map(str, error.faults))}}
    finally:
        channel.kept.update(shards.idle_processes())
    assert ended.hydra_cfg is not None
    run_dir = Path(ended.hydra_cfg.hydra.runtime.output_dir)
    # Asked to stop and without a score: it did. With a score it had come to its end before it heard.
    stopped = channel.stopped and not _has_numbers(value)
    return {
        "value": value,
        "run_dir": str(run_dir),
        "stopped": stopped,
        "metrics": _metrics(run_dir, payload["metrics"]),
    }


def _config(written: Any) -> DictConfig:
    """The configuration with Hydra's own part in its types, as Hydra wants it."""
    loaded = OmegaConf.create(written)
    assert isinstance(loaded, DictConfig)
    config = OmegaConf.create({"hydra": OmegaConf.structured(HydraConf)})
    for node in (config, config.hydra):  # Hydra's own groups add keys that its record does not know
        OmegaConf.set_struct(node, False)
    config.merge_with(loaded)
    OmegaConf.set_struct(config.hydra, None)
    OmegaConf.set_struct(config, True)
    return config


def _run_job(task: TaskFunction, config: DictConfig) -> JobReturn:
    JobRuntime.instance().set("name", str(config.hydra.job.name))
    context = HydraContext(ConfigLoaderImpl(ConfigSearchPathImpl()), Callbacks(config))
    state = Singleton.get_state()
    try:
        return run_job(task, config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    finally:
        Singleton.set_state(state)


def _plain(value: Any) -> Any:
    """A task's return value as JSON: numbers, and lists of numbers; everything else is no objective."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _has_numbers(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(one, float) and math.isfinite(one) for one in values)


def _metrics(run_dir: Path, names: Sequence[str]) -> dict[str, Any]:
    """{metrics.KEY: its number in the run's metrics.json}, with dots for what lies deeper."""
    path = run_dir / "metrics.json"
    content = json.loads(path.read_text(encoding="utf-8")) if names and path.is_file() else {}
    found = {}
    for name in names:
        value = content
        for part in name.split(".")[1:]:
            value = value.get(part) if isinstance(value, dict) else None
        found[name] = value
    return found
