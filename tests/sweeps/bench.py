"""A sweep of `tests.sweeps.tasks` on the real pool with CPU slots: for tests, and as a program that can be killed.

python -m tests.sweeps.bench '{"root": ..., "n_trials": 4, ...}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from launcher.base import Executor, JobSpec
from launcher.gpu_pool import GpuPool
from launcher.settings import PoolSettings
from sweeps.content import Content
from sweeps.controller import Controller, Rules
from sweeps.ledger import Ledger, Ticket, open_study, owner_name
from sweeps.plan import PlanSampler
from sweeps.samplers import make_pruner, make_sampler
from sweeps.scores import mode_of
from sweeps.space import parse_space
from sweeps.storage import Patience, open_storage
from sweeps.view import View

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Notes(View):
    """Writes down what happened; kills the process at `dies`, for example "asked 2"."""

    def __init__(self, dies: str = ""):
        super().__init__("test")
        self.events: list[tuple[str, int, str]] = []
        self.said: list[str] = []
        self.dies = dies

    def say(self, line: str) -> None:
        self.said.append(line)
        print(line, file=sys.stderr, flush=True)

    def happened(self, what: str, number: int, text: str = "") -> None:
        self.events.append((what, number, text))
        if f"{what} {number}" == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Bench:
    """One sweep, to be run once or several times."""

    root: Path
    words: Sequence[str] = ("x=0,1,2,3,4,5",)
    n_trials: int | None = None
    sampler: Any = None  # None = the grid
    pruner: Any = None
    directions: Sequence[str] = ("maximize",)
    payload: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)
    pool: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    url: str | None = None
    shared: bool = False
    owner: str | None = None
    patience: float = 30.0
    name: str = "study"

    def ledger(self) -> Ledger:
        space = parse_space({}, self.words)
        points = [] if self.sampler else space.combinations()
        storage = open_storage(self.url, self.root, Patience(self.patience))
        pruner = make_pruner(self.pruner)
        sampler = make_sampler(self.sampler) if self.sampler else PlanSampler(points)
        content = Content(space.content(), list(self.directions), ["value"], [])
        study = open_study(
            self.name, storage, self.directions, content, sampler=sampler, pruner=pruner, where=str(self.root)
        )
        n_trials = self.n_trials or len(points)
        owner = self.owner or owner_name(self.root)
        return Ledger(study, storage, space, n_trials=n_trials, owner=owner, shared=self.shared)

    def executor(self) -> Executor:
        settings = {"cpu_slots": 4, "leases": str(self.root / "leases"), "threads_per_job": 1, **self.pool}
        return GpuPool(PoolSettings(**settings))

    def spec(self, ticket: Ticket, seed: int | None, folder: Path, attempt: int) -> JobSpec:
        payload = {"number": ticket.number, "params": dict(ticket.params), "seed": seed, **self.payload}
        target = "tests.sweeps.tasks:task"
        return JobSpec(
            folder, target, payload, attempt, gpus=0, timeout=self.timeout, name=f"t{ticket.number}"
        )

    def run(self, notes: Notes | None = None, executor: Executor | None = None) -> tuple[Controller, bool]:
        """Run the sweep to its end."""
        self.root.mkdir(parents=True, exist_ok=True)
        ledger = self.ledger()
        like = self.spec(Ticket(0, 0, {}), None, self.root, 0)
        rules = Rules(like=like, mode=mode_of(make_pruner(self.pruner)), **self.rules)
        notes = notes or Notes()
        controller = Controller(ledger, executor or self.executor(), self.spec, self.root, rules, notes)
        return controller, controller.run()

    def starts(self) -> Counter[str]:
        """{"NUMBER.ATTEMPT": how often it was started}."""
        path = self.root / "starts.txt"
        return Counter(path.read_text().split()) if path.exists() else Counter()


def states(controller: Controller) -> dict[int, str]:
    """{trial number: its state in the study}."""
    return {trial.number: trial.state.name for trial in controller.ledger.trials()}


def main() -> None:
    settings = json.loads(sys.argv[1])
    notes = Notes(settings.pop("dies", ""))
    bench = Bench(Path(settings.pop("root")), **settings)
    _, done = bench.run(notes)
    print(json.dumps({"done": done, "said": notes.said}))


if __name__ == "__main__":
    main()
