"""Before a sweep's first trial: the application may look at some of its points, and refuse.

`hydra.sweeper.preflight` names its function, called as `function(points, here=...)`. points: configurations of trials,
composed when they are asked for, without Hydra's part and with interpolations as written; every listed value is among
them. here: whether jobs run on this machine. It returns lines to be said, and raises what is wrong with all of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from jdx.errors import ConfigError
from sweeps.compose import Composer
from sweeps.space import Space, Value, load_function

Preflight = Callable[..., Iterable[str]]
MOST = 32
"""Points to look at, unless more are needed for every listed value to be among them."""


def load_preflight(name: str | None) -> Preflight | None:
    """The function of that name. Raises: ConfigError when it cannot be imported."""
    function, faults = load_function("hydra.sweeper.preflight", name, "(points, here=...)")
    if faults:
        raise ConfigError(faults, what="sweep")
    return function


def some_points(space: Space, config: Any) -> Iterator[dict[str, Value]]:
    """All points of a small grid; else random ones in which every value of a choice occurs. The same at every call."""
    lists = [dim.values for dim in space.dimensions.values()]
    counts = [len(values) for values in lists if values is not None]
    if space.hook is None and len(counts) == len(lists) and math.prod(counts) <= MOST:
        yield from space.combinations()
        return
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for listed in _spread(space):
        study.enqueue_trial(listed)
        yield space.suggest(study.ask(), config)


def _spread(space: Space) -> Iterator[dict[str, Value]]:
    """Values of choices, each list in an order of its own: unlike numbers they tell nothing of each other."""
    chance = random.Random(0)
    choices = {
        key: chance.sample(dim.values, len(dim.values))
        for key, dim in space.dimensions.items()
        if dim.kind == "choice" and dim.values
    }
    number = max([MOST, *map(len, choices.values())])
    for index in range(number):
        yield {key: values[index % len(values)] for key, values in choices.items()}


def configs(
    composer: Composer,
    points: Iterable[Mapping[str, Value]],
    words: Callable[[Mapping[str, Value]], Sequence[str]],
) -> Iterator[DictConfig]:
    """Configurations of points; words: a point's overrides."""
    for point in points:
        try:
            plain = composer(words(point))
        except HydraException:  # told when a trial takes this point
            continue
        yield OmegaConf.create({key: value for key, value in plain.items() if key != "hydra"})
