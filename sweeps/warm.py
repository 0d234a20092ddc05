"""Starting from what is known: results of earlier runs and studies, told to the study before the first ask.

A result that was measured under the same settings is told as it is. One that was measured under others is no result
here: its point is tried first instead.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from jdx.errors import ConfigError, Fault
from sweeps.content import Content, content_of, flat
from sweeps.ledger import CONTENT, PRUNED, VALUES, WARM, Ledger
from sweeps.plan import FIXED, UNCOUNTED
from sweeps.space import Space, Value, spelt
from sweeps.storage import Patience, Place

KEY = "hydra.sweeper.warm_start"


@dataclass(frozen=True)
class Known:
    """A point with its result, from somewhere else."""

    source: str
    params: Mapping[str, Value]
    values: Sequence[float]
    comparable: bool
    why_not: str = ""


def start(
    ledger: Ledger,
    sources: Sequence[str],
    content: Content,
    ignored: Sequence[str],
    say: Callable[[str], None],
) -> int:
    """Tell a study what `sources` know and it does not; returns how many results were told. Raises: ConfigError.

    May be killed anywhere and called again, also by several controllers at once: each result comes in once.
    """
    settle(ledger)
    known = list(_read_again(ledger, sources, content, ignored, say))
    told = asked = 0
    for one in known:
        if one.comparable and len(one.values) == len(ledger.higher):
            told += _tell(ledger, one)
        elif _ask(ledger, one):
            asked += 1
            say(f"{one.source} was measured under other settings ({one.why_not}): its point is tried first")
    settle(ledger)
    if sources:
        there = len(known) - told - asked
        before = f", {there} were in the study already" if there else ""
        say(f"{told} results of earlier runs are known, {asked} points are tried first{before}")
    return told


def _read_again(
    ledger: Ledger,
    sources: Sequence[str],
    content: Content,
    ignored: Sequence[str],
    say: Callable[[str], None],
) -> Iterator[Known]:
    """`read`, but a source that is gone since the study was begun with it ends no sweep."""
    marks = [str(trial.user_attrs[WARM]) for trial in ledger.trials() if WARM in trial.user_attrs]
    found, faults = _read(sources, ledger.space, content, ignored)
    known_before = [
        fault
        for fault in faults
        if any(m == fault.value or m.startswith(f"{fault.value} trial ") for m in marks)
    ]
    if len(known_before) < len(faults):
        raise ConfigError(faults, what="sweep")
    for fault in known_before:
        say(f"{fault.value} cannot be read any more; what the study has of it stays")
    yield from found


def _tell(ledger: Ledger, one: Known) -> bool:
    """Add a result; False when the study has it, from this source or another."""
    values = list(one.values)
    if any(
        trial.params == one.params and values in (trial.values, trial.user_attrs.get(VALUES))
        for trial in ledger.trials()
        if trial.state in {TrialState.COMPLETE, TrialState.RUNNING}
    ):
        return False
    distributions = {key: dim.distribution for key, dim in ledger.space.dimensions.items()}
    attrs = {UNCOUNTED: WARM, WARM: one.source, VALUES: values}
    ledger.study.add_trial(
        create_trial(
            state=TrialState.RUNNING, params=dict(one.params), distributions=distributions, user_attrs=attrs
        )
    )
    return True


def _ask(ledger: Ledger, one: Known) -> bool:
    """Put a point into the queue; False when it was tried, or will be."""
    if any(one.params in (trial.params, trial.system_attrs.get(FIXED)) for trial in ledger.trials()):
        return False
    ledger.study.enqueue_trial(dict(one.params), user_attrs={WARM: one.source})
    return True


def settle(ledger: Ledger) -> None:
    """Finish the trials that carry a known result: complete, or given up where an earlier number has the same.

    A result is added in two steps because nothing keeps two controllers from adding it at once; numbers are given out
    one by one, so that afterwards both see the same one first.
    """
    first: list[tuple[Mapping[str, Any], Sequence[float] | None]] = []
    for trial in ledger.trials():
        values = trial.user_attrs.get(VALUES, trial.values)
        double = (trial.params, values) in first
        if trial.state in {TrialState.COMPLETE, TrialState.RUNNING} and values is not None and not double:
            first.append((trial.params, values))
        if trial.state == TrialState.RUNNING and VALUES in trial.user_attrs:
            ledger.settle(trial, None if double else values)


def read(sources: Sequence[str], space: Space, content: Content, ignored: Sequence[str]) -> list[Known]:
    """What the sources know about this space. Raises: ConfigError with every source that cannot be read."""
    found, faults = _read(sources, space, content, ignored)
    if faults:
        raise ConfigError(faults, what="sweep")
    return found


def _read(
    sources: Sequence[str], space: Space, content: Content, ignored: Sequence[str]
) -> tuple[list[Known], list[Fault]]:
    faults: list[Fault] = []
    found: list[Known] = []
    for source in sources:
        try:
            found += _source(source, space, content, ignored)
        except (OSError, ValueError, KeyError, SQLAlchemyError) as error:
            remedy = f"{error}; give run folders (with metrics.json), sweep folders, or URL#STUDY"
            faults.append(Fault(KEY, _shown(source), remedy))
    return found, faults


def _shown(source: str) -> str:
    """A source without its password."""
    return re.sub(r"(://[^/@]*?):[^/@]*@", r"\1:***@", source)


def _source(source: str, space: Space, content: Content, ignored: Sequence[str]) -> Iterable[Known]:
    if "://" in source:
        address, _, study = source.partition("#")
        return _study(_shown(source), Place(address), study or None, space, content)
    folder = Path(source).expanduser()
    if (folder / "sweep.json").is_file():
        head = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
        return _study(source, Place.of_sweep(folder, head), head["study"], space, content)
    return [_run(source, folder, space, content, ignored)]


def _study(source: str, place: Place, name: str | None, space: Space, content: Content) -> list[Known]:
    storage = place.open(Patience(5.0))
    names = optuna.get_all_study_names(storage)
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        raise ValueError(f"no study {name!r}; there are {', '.join(names) or 'none'}")
    study = optuna.load_study(study_name=name, storage=storage)
    words = study.user_attrs.get(CONTENT)
    why = (
        "not begun by this program" if words is None else _difference(json.loads(words)["settings"], content)
    )
    same_way = [direction.name.lower() for direction in study.directions] == list(content.directions)
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not trial.user_attrs.get(PRUNED) and _fits(trial.params, space)
    ]
    return [
        Known(
            f"{source} trial {t.number}", t.params, t.values, not why and same_way, why or "another direction"
        )
        for t in trials
    ]


def _run(source: str, folder: Path, space: Space, content: Content, ignored: Sequence[str]) -> Known:
    """A run folder: its point from the composed config, its value from metrics.json."""
    config = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"), resolve=False)
    hydra = OmegaConf.load(folder / ".hydra" / "hydra.yaml")
    score = json.loads((folder / "metrics.json").read_text(encoding="utf-8")).get("final_score")
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        raise ValueError("has no final score")
    assert isinstance(config, dict)
    own = {str(key): value for key, value in config.items()}
    settings, choices = flat(own), OmegaConf.select(hydra, "hydra.runtime.choices") or {}
    params: dict[str, Value] = {}
    for key, dim in space.dimensions.items():
        plain = key.lstrip("+")
        given = choices[plain] if plain in choices else settings.get(plain)
        params[key] = _as_in(dim.distribution, given, f"{key} = {given!r}")
    rest = {"directions": content.directions, "objectives": content.objectives, "seeds": content.seeds}
    why = _difference(content_of(space, own, ignored, rest).settings, content)
    plain_objective = list(content.objectives) == ["value"] and len(content.directions) == 1
    return Known(source, params, [float(score)], not why and plain_objective and not content.seeds, why)


def _as_in(distribution: BaseDistribution, given: Any, what: str) -> Value:
    """A run's setting as the space writes it. Raises: ValueError when it lies outside."""
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if choice == given or str(choice).strip("'\"") == (
                given if isinstance(given, str) else spelt(given)
            ):
                return choice
        raise ValueError(f"{what} is not among the space's values")
    if not isinstance(given, (int, float)) or not distribution._contains(
        distribution.to_internal_repr(given)
    ):
        raise ValueError(f"{what} lies outside of the space")
    return given


def _fits(params: Mapping[str, Any], space: Space) -> bool:
    """Whether a trial's point is a point of this space."""
    if params.keys() != space.dimensions.keys():
        return False
    try:
        return all(
            _as_in(dim.distribution, params[key], key) == params[key] for key, dim in space.dimensions.items()
        )
    except ValueError:
        return False


def _difference(settings: Mapping[str, str], content: Content) -> str:
    """Which settings differ, in a few words; empty when none does."""
    keys = settings.keys() | content.settings.keys()
    other = sorted(key for key in keys if settings.get(key) != content.settings.get(key))
    return ", ".join(other[:4]) + (f" and {len(other) - 4} more" if len(other) > 4 else "")
