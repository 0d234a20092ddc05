"""Every point of a space, once: the list of them, and the sampler that gives each trial its own."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from jdx.errors import ConfigError, Fault
from sweeps.space import Space, Value, describe

UNCOUNTED = "jdx:uncounted"  # why a trial is not part of the budget: "warm start", "surplus", "abandoned"
FIXED = "fixed_params"
"""Optuna's mark of a trial that was put into the queue with its point: the plan is not asked for it."""
MOST = 20_000
"""Points of a plan with conditions: listing more takes longer than anybody waits."""


class _Independent(BaseSampler):
    """A sampler that chooses one setting at a time."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}


class PlanSampler(_Independent):
    """Gives the n-th trial the n-th point of a list, so that two controllers never take the same one.

    Trials that were put into the queue with their point, and those that a controller asked for too much, take no
    place of the list. The database gives out numbers one by one, and a lower number is visible before a higher one,
    so all controllers agree on the place.
    """

    def __init__(self, points: Sequence[Mapping[str, Value]]):
        self.points = points
        self._places: dict[int, int] = {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The list's value; a trial behind its end (it will be given back) repeats the last point."""
        return self.points[min(self._place(study, trial.number), len(self.points) - 1)][param_name]

    def _place(self, study: Study, number: int) -> int:
        if number not in self._places:
            earlier = [one for one in study.get_trials(deepcopy=False) if one.number < number]
            self._places[number] = sum(map(_takes_a_place, earlier))
        return self._places[number]


def _takes_a_place(trial: FrozenTrial) -> bool:
    return FIXED not in trial.system_attrs and trial.user_attrs.get(UNCOUNTED) != "surplus"


def every_point(space: Space, config: Any, seed: int | None = None) -> list[dict[str, Value]]:
    """All points, those of custom_search_space's conditions too; in order, or shuffled by a seed.

    Raises: ConfigError when a setting has no end of values, or the points are more than `MOST`.
    """
    points = (
        space.combinations() if space.hook is None else list(itertools.islice(_walk(space, config), MOST + 1))
    )
    if space.hook is not None and len(points) > MOST:
        remedy = f"{space.hook_name} has more than {MOST} points: choose another, such as hydra/sweeper/sampler=tpe"
        raise ConfigError([Fault("hydra.sweeper.sampler", "brute_force", remedy)], what="sweep")
    if seed is not None:
        random.Random(seed).shuffle(points)
    return points


def _walk(space: Space, config: Any) -> Iterator[dict[str, Value]]:
    """Depth first: the space is asked again and again, each time with the next value of the last setting."""
    path = _Path()
    study = optuna.create_study(sampler=path)
    while True:
        path.depth = 0
        yield space.suggest(study.ask(), config)
        while path.taken and path.taken[-1] + 1 == len(path.values[-1]):
            path.taken.pop()
            path.values.pop()
        if not path.taken:
            return
        path.taken[-1] += 1


class _Path(_Independent):
    """Repeats the choices made so far, then takes the first value of everything new."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.values: list[list[Any]] = []
        self.depth = 0

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self.depth == len(self.taken):
            self.taken.append(0)
            self.values.append(_values(param_name, param_distribution))
        value = self.values[self.depth][self.taken[self.depth]]
        self.depth += 1
        return value


def _values(name: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, (IntDistribution, FloatDistribution)) and distribution.step is not None:
        count = round((distribution.high - distribution.low) / distribution.step) + 1
        if isinstance(distribution, IntDistribution):
            return [distribution.low + i * distribution.step for i in range(count)]
        return [float(f"{distribution.low + i * distribution.step:.12g}") for i in range(count)]
    text = "has no end of values: every point once needs choice(...) or range(...)"
    raise ConfigError([Fault(name, describe(distribution), text)], what="sweep")
