"""Starting from what is known: results of earlier runs and studies, told to a fresh study before the first ask.

A result that was measured under the same settings is told as it is. One that was measured under others is no result
here: its point is tried first instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState, create_trial

from jdx.errors import ConfigError, Fault
from sweeps.content import Content, content_of, flat
from sweeps.ledger import CONTENT, PRUNED, WARM, Ledger
from sweeps.plan import UNCOUNTED
from sweeps.space import Space, Value, spelt
from sweeps.storage import STUDY_FILE, Patience, open_storage

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
    """Tell a fresh study what `sources` know; returns how many results were told. Raises: ConfigError."""
    if not sources or ledger.trials():
        return 0
    known = list(read(sources, ledger.space, content, ignored))
    told = 0
    for one in known:
        if one.comparable and len(one.values) == len(ledger.higher):
            distributions = {key: dim.distribution for key, dim in ledger.space.dimensions.items()}
            attrs = {UNCOUNTED: WARM, WARM: one.source}
            ledger.study.add_trial(
                create_trial(
                    params=dict(one.params),
                    distributions=distributions,
                    values=list(one.values),
                    user_attrs=attrs,
                )
            )
            told += 1
        else:
            ledger.study.enqueue_trial(dict(one.params), user_attrs={WARM: one.source}, skip_if_exists=True)
            say(f"{one.source} was measured under other settings ({one.why_not}): its point is tried first")
    say(f"{told} results of earlier runs are known, {len(known) - told} points are tried first")
    return told


def read(sources: Sequence[str], space: Space, content: Content, ignored: Sequence[str]) -> Iterator[Known]:
    """What the sources know about this space. Raises: ConfigError with every source that cannot be read."""
    faults: list[Fault] = []
    found: list[Known] = []
    for source in sources:
        try:
            found += _source(source, space, content, ignored)
        except (OSError, ValueError, KeyError) as error:
            remedy = f"{error}; give run folders (with metrics.json), sweep folders, or URL#STUDY"
            faults.append(Fault(KEY, source, remedy))
    if faults:
        raise ConfigError(faults, what="sweep")
    yield from found


def _source(source: str, space: Space, content: Content, ignored: Sequence[str]) -> Iterable[Known]:
    if "://" in source:
        address, _, study = source.partition("#")
        return _study(source, address, study or None, Path(), space, content)
    folder = Path(source).expanduser()
    if (folder / "sweep.json").is_file():
        head = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
        url = None if head["storage"] == STUDY_FILE else head["storage"]
        return _study(source, url, head["study"], folder, space, content)
    return [_run(folder, space, content, ignored)]


def _study(
    source: str, url: str | None, name: str | None, folder: Path, space: Space, content: Content
) -> list[Known]:
    if url is None and not (folder / STUDY_FILE).is_file():
        raise ValueError(f"no {STUDY_FILE} there")
    storage = open_storage(url, folder, Patience(5.0))
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


def _run(folder: Path, space: Space, content: Content, ignored: Sequence[str]) -> Known:
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
    return Known(str(folder), params, [float(score)], not why and plain_objective and not content.seeds, why)


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
