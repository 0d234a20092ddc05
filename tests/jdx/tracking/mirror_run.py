"""A program that tracks one small run, started by the tests in processes of their own.

W&B keeps one service and one set of credentials per process, so each fault needs a fresh one.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from pydantic import TypeAdapter

from jdx.schema import Tracker
from jdx.tracking import RunInfo, make_tracker
from tests.jdx.run_folders import make_run, metrics

STEPS = 5
LONG = 120.0
"""Seconds that the slowest machine needs for what nothing stands in the way of."""


def mirror(run_dir: Path, asked: argparse.Namespace) -> None:
    """Track a run in `run_dir`, and say so at the end."""
    limits = {"init_timeout": asked.init, "finish_timeout": asked.finish}
    config = {"name": "wandb", "mode": asked.mode, "log_adapters": True, **limits}
    tracker = make_tracker(TypeAdapter(Tracker).validate_json(json.dumps(config)))
    settings = {"lora": {"rank": 32}}
    tracker.start(RunInfo("first", run_dir, settings, group="study", tags=("tiny",)))
    for step in range(1, STEPS + 1):
        tracker.log_losses(step, {"00": 0.1 * step, "01": 0.3})
    if asked.begun or asked.stopped:
        _wait_until_begun(tracker)
    if asked.stopped:
        _stop_service()
    tracker.log_style("00", {"hist": 0.625})
    tracker.finish(metrics=metrics(), run_dir=run_dir, status="finished")
    tracker.close()
    tracker.log_losses(9, {"00": 9.0})  # after the end: ignored
    tracker.close()
    print("the trial goes on")


def _wait_until_begun(tracker: Any) -> None:
    end = time.monotonic() + LONG
    while tracker._run is None and time.monotonic() < end:
        time.sleep(0.05)


def _stop_service() -> None:
    """Leave W&B's own process alive but deaf."""
    for child in psutil.Process().children():
        if child.name().startswith("wandb-core"):
            child.suspend()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("mode")
    parser.add_argument("--init", type=float, default=LONG, help="seconds for the beginning")
    parser.add_argument("--finish", type=float, default=LONG, help="seconds for the end")
    for flag in ("begun", "stopped", "unwritable"):
        parser.add_argument(f"--{flag}", action="store_true")
    asked = parser.parse_args()
    run = make_run(asked.root / "run")
    (run / "adapters" / "00").mkdir(parents=True)
    (run / "adapters" / "00" / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    if asked.unwritable:
        (run / "wandb").write_text("a file where the folder should be")
    mirror(run, asked)
