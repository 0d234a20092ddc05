"""What a sweep costs beside its trials: time per empty trial, and how busy four slots are kept by uneven ones.

    python -m benchmarks.sweep_overhead                     ours
    python -m benchmarks.sweep_overhead --upstream PYTHON   the same through hydra-optuna-sweeper and its joblib
                                                            launcher; PYTHON is a venv of theirs, for example
        python -m venv /tmp/theirs
        /tmp/theirs/bin/pip install hydra-core==1.4.0rc3 hydra-optuna-sweeper==1.4.0rc3 hydra-joblib-launcher==1.4.0rc3

Both run the same small Hydra application with random search, SQLite and four slots. `--reuse` counts instead how often
a sweep over what is only drawn, and one over step counts, train (real trials of the mini model; minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jdx import ROOT

APP = """
import os, time
from pathlib import Path
import hydra

@hydra.main(version_base="1.3", config_path=None, config_name="config")
def app(config):
    begin = time.time()
    time.sleep(config.seconds * (4.0 if int(config.x * 1e6) % 8 == 0 else 1.0))
    with open(Path(os.environ["TIMES"]), "a") as file:
        file.write(f"{begin} {time.time()}\\n")
    return config.x

from hydra.core.config_store import ConfigStore
ConfigStore.instance().store(name="config", node=CONFIG)

if __name__ == "__main__":
    app()
"""
OURS = {
    "defaults": ["_self_", {"override hydra/sweeper": "jdx"}],
    "x": 0.0,
    "seconds": 0.0,
    "launcher": {"name": "gpu_pool", "gpus_per_trial": 0, "cpu_slots": 4, "jobs_per_worker": 10000},
}
THEIRS = {
    "defaults": ["_self_", {"override hydra/sweeper": "optuna"}, {"override hydra/launcher": "joblib"},
                 {"override hydra/sweeper/sampler": "random"}],
    "x": 0.0,
    "seconds": 0.0,
}  # fmt: skip
SLOTS = 4


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upstream", metavar="PYTHON", help="interpreter that has hydra-optuna-sweeper")
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.5,
        help="of a short uneven trial; one in eight takes four times that",
    )
    parser.add_argument("--reuse", action="store_true")
    args = parser.parse_args()
    if args.reuse:
        print(json.dumps(reuse(), indent=1))
        return
    python = args.upstream or sys.executable
    upstream = args.upstream is not None
    rows = {
        "empty trials": measure(python, upstream, args.trials, 0.0),
        "uneven trials": measure(python, upstream, args.trials, args.seconds),
    }
    print(json.dumps({"upstream": upstream, "load": os.getloadavg()[0], **rows}, indent=1))


def measure(python: str, upstream: bool, trials: int, seconds: float) -> dict[str, float]:
    """Wall time of a sweep, its share per trial, and how much of the slots' time the trials themselves filled."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "app.py").write_text(APP.replace("CONFIG", repr(THEIRS if upstream else OURS)))
        words = ["-m", "x=interval(0.0,1.0)", f"seconds={seconds}", f"hydra.sweeper.n_trials={trials}"]
        words += [
            "hydra.sweeper.direction=minimize",
            f"hydra.sweeper.n_jobs={SLOTS}",
            "hydra.sweep.dir=sweep",
        ]
        if upstream:
            words += [f"hydra.sweeper.storage=sqlite:///{folder}/study.db", f"hydra.launcher.n_jobs={SLOTS}"]
        else:
            words += ["hydra.sweeper.sampler=random"]
        env = os.environ | {"TIMES": str(folder / "times"), "JDX_LEASES": str(folder / "leases")}
        env |= {"PYTHONPATH": "" if upstream else str(ROOT), "OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        subprocess.run([python, "app.py", *words], cwd=folder, env=env, check=True, capture_output=True)
        wall = time.perf_counter() - start
        rows = [line.split() for line in (folder / "times").read_text().splitlines()]
    spans = [(float(begin), float(end)) for begin, end in rows]
    assert len(spans) == trials, f"{len(spans)} of {trials} trials ran"
    first, last = min(begin for begin, _ in spans), max(end for _, end in spans)
    return {
        "wall seconds": round(wall, 2),
        "seconds per trial from first to last": round((last - first) / trials, 4),
        "slots busy, %": round(100 * busy_share(spans), 1) if seconds else 0.0,
    }


def busy_share(spans: list[tuple[float, float]]) -> float:
    """Share of the slots' time that trials fill, from when all slots have one to when the last trial begins."""
    begins = sorted(begin for begin, _ in spans)
    opens, closes = begins[SLOTS - 1], begins[-1]
    busy = sum(max(0.0, min(end, closes) - max(begin, opens)) for begin, end in spans)
    return busy / (SLOTS * (closes - opens))


def reuse() -> dict[str, int]:
    """How many steps two sweeps train: twenty ways of drawing (4 steps); four step counts of one training (1200)."""
    sweeps = {
        "20 ways of drawing": ["train.steps=4", "sampler.guidance_scale=range(1.5,11.5,0.5)"],
        "steps 250, 500, 800, 1200": ["train.steps=250,500,800,1200"],
    }
    common = [
        "debug=tiny",
        "data.styles=[0]",
        "tracker=none",
        "launcher.cpu_slots=1",
        "launcher.gpus_per_trial=0",
    ]
    counts = {}
    for what, words in sweeps.items():
        with tempfile.TemporaryDirectory() as name:
            env = os.environ | {
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "JDX_LEASES": f"{name}/leases",
            }
            command = [sys.executable, "-m", "jdx.train", "-m", *common, *words]
            subprocess.run(command, cwd=name, env=env, check=True, capture_output=True)
            logs = [path.read_text() for path in Path(name).glob("multirun/*/jobs/*/log.txt")]
        counts[f"{what}: trials"] = len(logs)
        counts[f"{what}: steps trained"] = sum(
            int(n) for log in logs for n in re.findall(r"training: done, (\d+)/", log)
        )
    return counts


if __name__ == "__main__":
    main()
