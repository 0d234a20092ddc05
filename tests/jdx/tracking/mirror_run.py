"""A program that tracks one small run, started by the tests in processes of their own.

W&B keeps one service and one set of credentials per process, so each fault needs a fresh one.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from jdx.schema import Tracker
from jdx.tracking import RunInfo, make_tracker
from tests.jdx.run_folders import make_run, metrics

STEPS = 5


def mirror(run_dir: Path, mode: str, *, stop_service: bool) -> None:
    """Track a run in `run_dir`, and say so at the end."""
    limits = {"init_timeout": 4.0, "finish_timeout": 4.0}
    config = {"name": "wandb", "mode": mode, "log_adapters": True, **limits}
    tracker = make_tracker(TypeAdapter(Tracker).validate_json(json.dumps(config)))
    settings = {"lora": {"rank": 32}}
    tracker.start(RunInfo("first", run_dir, settings, group="study", tags=("tiny",)))
    for step in range(1, STEPS + 1):
        tracker.log_losses(step, {"00": 0.1 * step, "01": 0.3})
    if stop_service:
        _stop_service()
    tracker.log_style("00", {"hist": 0.625})
    tracker.finish(metrics=metrics(), run_dir=run_dir, status="finished")
    tracker.close()
    tracker.log_losses(9, {"00": 9.0})  # after the end: ignored
    tracker.close()
    print("the trial goes on")


def _stop_service() -> None:
    """Leave W&B's own process alive but deaf, once it has begun the run."""
    time.sleep(2.0)
    for child in psutil.Process().children():
        if child.name().startswith("wandb-core"):
            child.suspend()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    root = Path(sys.argv[1])
    run = make_run(root / "run")
    (run / "adapters" / "00").mkdir(parents=True)
    (run / "adapters" / "00" / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    if "unwritable" in sys.argv:
        (run / "wandb").write_text("a file where the folder should be")
    mirror(run, sys.argv[2], stop_service="stopped" in sys.argv)
