"""Where runs are found: run folders at any depth, sweep folders, study databases, Weights & Biases."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState

from jdx.errors import BackendError
from jdx.tracking.record import RECORD_KEY
from sweeps.leaderboard.runs import LeftOut, LeftOutError, Run, checked, read_folder
from sweeps.ledger import PRUNED, REASON, RECORD
from sweeps.storage import Patience, Place, sqlite_url

RUN_MARKS = ("metrics.json", "trial.json", "seeds.json")
SWEEP = "sweep.json"
INNER = frozenset(
    {"earlier", "snapshots", "jobs", "wandb", "images", "adapters", "content", "store", ".hydra"}
)
"""Folders that hold no runs of their own: what an earlier trial left is not what the folder's run is."""
WAIT = 10.0
"""Seconds for a study's database."""


@dataclass
class Found:
    """Runs, and what was left out."""

    runs: list[Run] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set)  # folders that are dealt with

    def leave_out(self, name: str, reason: str) -> None:
        self.left_out.append(LeftOut(name, reason))

    def take(self, folder: Path) -> None:
        """Read one run folder, once."""
        place = folder.resolve()
        if place in self.seen:
            return
        self.seen.add(place)
        name = near(folder)
        try:
            self.runs.append(read_folder(folder, name))
        except LeftOutError as why:
            self.leave_out(name, str(why))


def near(path: Path) -> str:
    """Relative to the current folder where it lies below it."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def gather(places: Iterable[str]) -> Found:
    """Everything that can be ranked in some folders, databases (`study.db` or a URL), and what cannot."""
    found = Found()
    for place in places:
        if "://" in place:
            _take_studies(Place(place), place, found)
            continue
        path = Path(place).expanduser()
        if path.is_file() and path.suffix in {".db", ".sqlite", ".sqlite3"}:
            _take_studies(Place(sqlite_url(path.absolute(), create=False)), near(path), found)
        elif path.is_file():
            found.leave_out(place, "is a file; give run folders, sweep folders or study databases")
        elif not path.is_dir():
            found.leave_out(place, "does not exist")
        else:
            _take_folder(path, found)
    return found


def _take_folder(root: Path, found: Found) -> None:
    before = len(found.runs) + len(found.left_out) + len(found.seen)
    folders = list(folders_below(root))
    for folder in folders:  # studies first: they know why a run is none
        if (folder / SWEEP).is_file():
            _take_sweep(folder, found)
    for folder in folders:
        if is_run(folder):
            found.take(folder)
    if len(found.runs) + len(found.left_out) + len(found.seen) == before:
        found.leave_out(near(root), "holds no run folder")


def is_run(folder: Path) -> bool:
    """Whether a trial wrote here."""
    return any((folder / name).exists() for name in RUN_MARKS)


def folders_below(root: Path) -> Iterator[Path]:
    """Folders that may be runs or sweeps, at any depth; nothing below a run."""
    for here, below, _ in os.walk(root):
        folder = Path(here)
        yield folder
        below[:] = [] if is_run(folder) else sorted(name for name in below if name not in INNER)


def _take_sweep(folder: Path, found: Found) -> None:
    try:
        head = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
        place, study = Place.of_sweep(folder, head), str(head["study"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        found.leave_out(
            near(folder / SWEEP), f"cannot be read ({error}): its runs are ranked as far as they are whole"
        )
        return
    if place.gone is not None:
        found.leave_out(near(place.gone), "is gone: the sweep's runs are ranked as far as they are whole")
        return
    _take_studies(place, near(folder), found, study)


def _take_studies(place: Place, name: str, found: Found, only: str | None = None) -> None:
    try:
        trials = _trials(place, name, only)
    except ValueError as error:
        found.leave_out(name, str(error))
        return
    if not trials:
        wanted = f"no study {only!r}" if only else "no study"
        found.leave_out(name, f"holds {wanted}")
    for study, some in trials.items():
        if not some:
            found.leave_out(f"{name}: study {study}", "has no trials")
        for trial in some:
            _take_trial(f"{name}: study {study}, trial {trial.number}", trial, found)


def _trials(place: Place, name: str, only: str | None = None) -> dict[str, list[FrozenTrial]]:
    """Trials by study. Raises: ValueError with the reason in words."""
    try:
        storage = place.open(Patience(WAIT, name))
        studies = {study.study_name: study._study_id for study in storage.get_all_studies()}
        return {
            study: storage.get_all_trials(number, deepcopy=False)
            for study, number in studies.items()
            if only is None or study == only
        }
    except (
        BackendError,
        OptunaError,
        sqlalchemy.exc.SQLAlchemyError,
        OSError,
        ValueError,
        ImportError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the study cannot be read ({reason})") from error


def run_folders(place: str) -> list[Path]:
    """Run folders of all studies in a database (a file or a URL) that are here. Raises: ValueError, with the reason."""
    url = place if "://" in place else sqlite_url(Path(place).expanduser().absolute(), create=False)
    folders = [
        folder
        for some in _trials(Place(url), place).values()
        for trial in some
        for folder in _run_dirs(trial)
    ]
    return [folder for folder in folders if folder.is_dir()]


def _take_trial(name: str, trial: optuna.trial.FrozenTrial, found: Found) -> None:
    folders = _run_dirs(trial)
    reason = _why_not(trial, folders)
    if reason is None:
        for folder in folders:
            if folder.is_dir():
                found.take(folder)
            else:
                found.leave_out(name, f"its run folder {folder} is not here")
        return
    found.leave_out(name, reason)
    found.seen |= {folder.resolve() for folder in folders}


def _run_dirs(trial: FrozenTrial) -> list[Path]:
    record = trial.user_attrs.get(RECORD) or {}
    return [Path(folder) for folder in record.get("run_dirs") or ()]


def _why_not(trial: FrozenTrial, folders: list[Path]) -> str | None:
    if trial.user_attrs.get(PRUNED) or trial.state == TrialState.PRUNED:
        guess = f", estimated at {trial.values[0]:.4f}" if trial.values else ""
        return f"pruned{guess}: an estimate is no score"
    if trial.state == TrialState.FAIL:
        return f"failed: {trial.user_attrs.get(REASON, 'no reason is recorded')}"
    if trial.state != TrialState.COMPLETE:
        return f"not finished ({trial.state.name.lower()})"
    return None if folders else "no run folder is recorded: its value is known, but not what it is made of"


def gather_wandb(project: str, found: Found, api: Any = None) -> None:
    """Add the runs of ENTITY/PROJECT on a W&B server; runs that are there already in folders are not added twice."""
    try:
        if api is None:
            import wandb

            api = wandb.Api(timeout=int(WAIT) * 2)
        for run in api.runs(project):
            _take_mirrored(run, found)
    except Exception as error:  # W&B raises a dozen kinds; the folders are ranked all the same
        first = str(error).splitlines()[0] if str(error) else ""
        found.leave_out(f"W&B {project}", f"cannot be read ({type(error).__name__}: {first})")


def _take_mirrored(mirrored: Any, found: Found) -> None:
    name = f"W&B {'/'.join(mirrored.path)}"
    if mirrored.state in {"running", "pending"}:
        found.leave_out(name, f"not finished ({mirrored.state})")
        return
    try:
        text = mirrored.summary.get(RECORD_KEY)
        if text is None:
            raise LeftOutError(f"its summary has no {RECORD_KEY}: not written by jdx, or never finished")
        try:
            record = json.loads(text)
            metrics, about = record["metrics"], record["about"]
        except (ValueError, KeyError, TypeError) as error:
            raise LeftOutError(f"its {RECORD_KEY} cannot be read ({error})") from error
        found.runs.append(checked(name, metrics, about, about.get("data")))
    except LeftOutError as why:
        found.leave_out(name, str(why))
