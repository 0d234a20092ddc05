"""A sweep's folder and study read back: trials, where their runs lie, the best and the median one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from jdx.errors import BackendError
from jdx.report.run_folder import RunFolder
from sweeps.results import OURS, Row, row_of
from sweeps.storage import STUDY_FILE, Patience, Place

HEAD = "sweep.json"


class SweepError(BackendError):
    """A folder that holds no readable sweep."""


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is now. `results` is the content of results.json, empty before the sweep's first end."""

    folder: Path
    head: Mapping[str, Any]
    study: optuna.Study
    rows: Sequence[Row]
    results: Mapping[str, Any]

    @property
    def higher(self) -> list[bool]:
        """Of each objective, whether more is better."""
        return [direction == StudyDirection.MAXIMIZE for direction in self.study.directions]

    @property
    def objectives(self) -> list[str]:
        """Names of the objectives; "value" is the final score."""
        content = self.head.get("content")
        names = content.get("objectives") if isinstance(content, Mapping) else None
        fits = isinstance(names, list) and len(names) == len(self.higher)
        return list(map(str, names)) if fits and names else [f"value {i}" for i in range(len(self.higher))]

    @cached_property
    def ranked(self) -> list[Row]:
        """Finished trials, best first by the first objective; estimates of stopped ones after all measured."""
        sign = -1.0 if self.higher[0] else 1.0
        done = [row for row in self.rows if row.state == "complete" and row.values]
        return sorted(done, key=lambda row: (row.pruned, sign * (row.values or (0.0,))[0], row.number))

    @property
    def best(self) -> Row | None:
        """The best trial that ran to its end."""
        return next((row for row in self.ranked if not row.pruned), None)

    @property
    def median(self) -> Row | None:
        """The trial in the middle of those that ran to their end, if there are three or more that left pictures."""
        shown = [row for row in self.ranked if not row.pruned and self.run(row) is not None]
        return shown[len(shown) // 2] if len(shown) > 2 else None

    def run(self, row: Row) -> Path | None:
        """Where a trial's run lies; of several seeds, the first. Found beside the page when the sweep has moved."""
        for given in row.run_dirs:
            path = Path(given)
            moved = [self.folder.joinpath(*path.parts[-n:]) for n in (1, 2) if len(path.parts) > n]
            found = next((p for p in [path, *moved] if p.is_dir()), None)
            if found is not None:
                return found
        return None

    def command(self) -> str:
        """The command of the best trial: of results.json, else as its run folder tells it."""
        best = self.best
        if best is None:
            return ""
        told = self.results.get("best")
        numbers = [one.get("number") for one in told] if isinstance(told, list) else []
        if numbers[:1] == [best.number] and self.results.get("best_command"):
            return str(self.results["best_command"])
        run = self.run(best)
        return RunFolder(run).command() if run is not None else ""


def read_sweep(folder: Path, study: optuna.Study | None = None) -> Sweep:
    """Read a sweep; study: the open one, where the caller has it.

    Raises: SweepError when the folder holds no sweep or its study cannot be read.
    """
    folder = Path(folder).absolute()
    head = _object(folder / HEAD)
    if head is None or "study" not in head:
        raise SweepError(f"{folder}: no readable {HEAD}; give the folder of a sweep, such as multirun/STUDY")
    study = study or _open(folder, head)
    trials = study.get_trials(deepcopy=False)
    rows = [row_of(trial) for trial in trials]
    return Sweep(folder, head, study, rows, _object(folder / OURS) or {})


def _open(folder: Path, head: Mapping[str, Any]) -> optuna.Study:
    place = Place.of_sweep(folder, {"storage": STUDY_FILE, **head})
    if place.gone is not None:
        raise SweepError(f"{place.gone} is missing: the sweep has begun no trial, or was cleared")
    try:
        storage = place.open(Patience(20.0))
        return optuna.load_study(study_name=str(head["study"]), storage=storage)
    except KeyError:
        raise SweepError(f"{place} holds no study {head['study']!r}; the folder is another sweep's") from None
    except (BackendError, SQLAlchemyError, ValueError, OSError, RuntimeError) as error:
        raise SweepError(f"{place} cannot be read: {error}") from error


def _object(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
