"""`python -m jdx.train`: run one trial, or with -m many, from Hydra overrides."""

from __future__ import annotations

import logging
import math
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.faults import DataError
from jdx import ROOT, completion
from jdx.disk import is_told
from jdx.errors import BackendError, ConfigError, Fault
from jdx.overrides import check_overrides, forgotten_flag, understood
from jdx.words import counted, typed

log = logging.getLogger(__name__)

# OpenMP's threads wait for each other by spinning. Where another process wants the same cores, a spinning thread keeps
# the one it waits for from running: a training of 9 s took over 100 s. So sleep early; read when torch is imported.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

OmegaConf.register_new_resolver("jdx", lambda path: str(ROOT / path), replace=True)
OmegaConf.register_new_resolver(
    "jdx_share", lambda share, whole: max(1, int(share * whole)), replace=True
)  # ${jdx_share:0.5,${train.steps}}: recipes whose phases keep their proportion when they are made shorter

FOLDERS = """
Runs write below the current folder: start where there is room and you may write, or give hydra.run.dir=FOLDER (of a
sweep hydra.sweep.dir=FOLDER) and store.root=FOLDER, and data.root=FOLDER for the sample set."""
USER_ERRORS = (ConfigError, DataError, BackendError)
"""Errors that speak for themselves: shown without a traceback."""


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def train(config: DictConfig) -> float:
    """One trial; returns its final score, NaN when there is none (Hydra sweepers read it as the objective)."""
    try:
        return _trial(config)
    except USER_ERRORS as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # the sweeper decides what a failed job means
        print(f"\n{error}", file=sys.stderr)
        raise SystemExit(2) from None


def _trial(config: DictConfig) -> float:
    from jdx import validation

    runtime = HydraConfig.get().runtime
    plain = validation.anchored(_resolved(config), Path(runtime.cwd))
    checked = validation.build(plain, validation.borrowed(validation.nested(config, resolve=False)))
    # Imported late, like torch below: a wrong setting or path is told in a second, not after they have loaded.
    from jdx import summary, trial

    challenge, run_dir = trial.read_set(checked), Path(runtime.output_dir)
    log.info("%s", summary.opening(checked, challenge, run_dir))
    _use_threads(checked.backend.threads)
    _hush_libraries()
    result = trial.run(checked, run_dir, challenge)
    summary.show(result, checked)
    if result.failed:
        stopped = counted(len(result.failed), "style")
        log.error("%s stopped: the score covers the others only and is not returned", stopped)
        return math.nan
    return math.nan if result.final_score is None else result.final_score  # also when a sweep stopped it


def _resolved(config: DictConfig) -> dict[str, Any]:
    """The composed configuration as nested dicts, interpolations resolved. Raises: ConfigError."""
    from jdx import validation

    try:
        return validation.nested(config, resolve=True)
    except OmegaConfBaseException as error:
        key = str(error.full_key or "configuration")
        raise ConfigError([Fault(key, "", str(error.msg or error).splitlines()[0])]) from None


def _use_threads(threads: int) -> None:
    """CPU threads: as asked for, else as OMP_NUM_THREADS says, else all cores that this process may use."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def _hush_libraries() -> None:
    """No bars of transformers about loading weights between ours."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def main() -> None:
    """The command: check the words, then let Hydra compose and run."""
    if completion.asked(sys.argv[1:]):
        _complete(sys.argv[1:])
        return
    words, sys.argv[1:] = sys.argv[1:], understood(sys.argv[1:])
    try:
        check_overrides(sys.argv[1:])
    except ConfigError as error:
        _stop(f"{error}\n\nAll settings: python -m jdx.train --cfg job")
    note = forgotten_flag(sys.argv[1:])
    if note is not None:
        print(note, file=sys.stderr)
    # With this, Hydra passes errors on instead of printing a traceback of its own and exiting.
    wants_all = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        train()
    except (*USER_ERRORS, HydraException, OmegaConfBaseException, OSError) as error:
        disk = isinstance(error, OSError) and is_told(error)
        if wants_all or (isinstance(error, OSError) and not (disk or isinstance(error, HydraException))):
            raise
        cause = f"\n{error.__cause__}" if isinstance(error, HydraException) and error.__cause__ else ""
        _stop(f"\n{error}{FOLDERS if disk else cause}")
    except KeyboardInterrupt:
        again = "python -m jdx.train " + typed(words)
        print(
            f"\nInterrupted. Finished stages and training up to the last checkpoint are kept; to go on:\n  {again}",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def _complete(words: list[str]) -> None:
    text = completion.script(words)
    if text is not None:
        print(text)
        return
    completion.trim()
    train()


def _stop(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
