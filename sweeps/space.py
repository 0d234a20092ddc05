"""Search spaces, written as Hydra overrides: what is searched, what is fixed, what depends on what."""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
    Transformer,
)
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from jdx.errors import ConfigError, Fault

Value = None | bool | int | float | str
GRAMMAR = "write choice(a,b), range(1,9,2), interval(0.1,1.0), tag(log,interval(1e-5,1e-3)) or a,b,c"


@dataclass(frozen=True)
class Dimension:
    """One searched setting. Texts among its values are pieces of an override, quotes included."""

    kind: Literal["choice", "range", "interval"]
    distribution: BaseDistribution
    values: tuple[Value, ...] | None
    """Every value, where they can be counted."""


Hook = Callable[[Trial, Any], None]


@dataclass(frozen=True)
class Space:
    """What a sweep searches."""

    dimensions: Mapping[str, Dimension] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    """Overrides that every trial gets, as they were typed."""
    hook: Hook | None = None
    """Suggests what depends on other values; called with (trial, config) after the dimensions."""
    hook_name: str = ""

    @property
    def is_plain_grid(self) -> bool:
        """Whether every value was listed: nothing is left for a sampler to choose."""
        return self.hook is None and all(dim.kind != "interval" for dim in self.dimensions.values())

    def combinations(self) -> list[dict[str, Value]]:
        """Every combination once; the last dimension varies fastest. Raises: ConfigError when one is continuous."""
        faults = [
            Fault(
                key,
                describe(dim.distribution),
                "has no end of values: a grid needs choice(...) or range(...)",
            )
            for key, dim in self.dimensions.items()
            if dim.values is None
        ]
        if faults:
            raise ConfigError(faults, what="grid")
        lists = [
            dict.fromkeys(_marked(value) for value in dim.values or ()) for dim in self.dimensions.values()
        ]
        return [
            {key: value for key, (_, value) in zip(self.dimensions, point, strict=True)}
            for point in itertools.product(*lists)
        ]

    def suggest(self, trial: Trial, config: Any) -> dict[str, Value]:
        """Have every dimension, then the hook, choose; what a trial has chosen before stays. Raises: ConfigError."""
        for key, dim in self.dimensions.items():
            suggest(trial, key, dim.distribution)
        if self.hook is not None:
            self.hook(trial, config)
            twice = sorted(trial.params.keys() & {word.partition("=")[0] for word in self.fixed})
            if twice:
                remedy = f"is fixed on the command line and chosen by {self.hook_name}: drop one of the two"
                raise ConfigError([Fault(key, "", remedy) for key in twice], what="search space")
        return dict(trial.params)

    def words(self, params: Mapping[str, Value]) -> list[str]:
        """A point of the space as overrides, the fixed ones first."""
        return [*self.fixed, *(self._word(key, value) for key, value in params.items())]

    def _word(self, key: str, value: Value) -> str:
        if isinstance(value, str):
            return f"{key}={value if key in self.dimensions else quoted(value)}"
        return f"{key}={spelt(value)}"

    def content(self) -> dict[str, str]:
        """The space in words: equal spaces give equal words, whatever their order."""
        words = {key: describe(dim.distribution) for key, dim in sorted(self.dimensions.items())}
        return words | ({"custom_search_space": self.hook_name} if self.hook_name else {})


def parse_space(params: Mapping[str, Any], arguments: Sequence[str], hook: str | None = None) -> Space:
    """The space of `hydra.sweeper.params` and of the command line, which wins. Raises: ConfigError, every fault."""
    dimensions: dict[str, Dimension] = {}
    fixed: dict[str, str] = {}
    faults: list[Fault] = []
    for word in [*(f"{key}={_written(value)}" for key, value in params.items()), *arguments]:
        key, _, text = word.partition("=")
        try:
            override = OverridesParser.create().parse_override(word)
            name = key if override.is_delete() else override.get_key_element()
            dimension = _dimension(override)
        except (HydraException, ValueError, AssertionError) as error:
            said = "" if isinstance(error, HydraException) else f"{error}; "
            faults.append(Fault(key, text, f"{said}{GRAMMAR}"))
            continue
        fixed.pop(name, None)
        dimensions.pop(name, None)
        if dimension is None:
            fixed[name] = word
        else:
            dimensions[name] = dimension
    found, more = load_hook(hook)
    if faults + more:
        raise ConfigError(faults + more, what="search space")
    return Space(dimensions, tuple(fixed.values()), found, hook or "")


def _written(value: Any) -> str:
    """A value of `params` as it would be typed: YAML may have read it as a number or a list."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(_written(item) for item in value) + "]"
    return value if isinstance(value, str) else spelt(value)


def _dimension(override: Override) -> Dimension | None:
    """The dimension that a sweep override describes; None for a single value. Raises: ValueError, in words."""
    if not override.is_sweep_override():
        return None
    value = override.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        return _interval(value, log)
    if log:
        raise ValueError("a logarithmic scale needs an interval")
    if override.is_choice_sweep() or override.is_range_sweep():
        plain = override.sweep_iterator(transformer=Transformer.identity)
        listed = value.list if isinstance(value, ChoiceSweep) else plain  # the list knows what was in quotes
        return _listed(override, value, tuple(_encoded(one) for one in listed))
    raise ValueError("glob(...) depends on the files there are; list the options")


def _encoded(value: Any) -> Value:
    """A value that Optuna can keep: numbers as they are, everything else as a piece of an override."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):  # ranges add up their steps: 0.1 + 0.1 + 0.1 is not 0.3
        return float(f"{value:.12g}")
    if isinstance(value, str):  # choice('5') has lost its quotes by now
        return quoted(value)
    text: str = value.with_quotes() if isinstance(value, QuotedString) else Transformer.str(value)
    return text


def _listed(override: Override, value: Any, values: tuple[Any, ...]) -> Dimension:
    if not values:
        raise ValueError("holds no value")
    choices = CategoricalDistribution(tuple(value for _, value in dict.fromkeys(map(_marked, values))))
    if override.is_choice_sweep() or not isinstance(value, RangeSweep) or value.shuffle or len(values) == 1:
        return Dimension("choice", choices, values)
    low, high, step = min(values), max(values), abs(Decimal(str(values[1])) - Decimal(str(values[0])))
    if all(isinstance(one, int) for one in values):
        return Dimension("range", IntDistribution(low, high, step=int(step)), values)
    if any((Decimal(str(one)) - Decimal(str(low))) % step for one in values):
        return Dimension("range", choices, values)  # steps too fine for twelve digits
    return Dimension("range", FloatDistribution(float(low), float(high), step=float(step)), values)


def _interval(value: IntervalSweep, log: bool) -> Dimension:
    low, high = value.start, value.end
    if low is None or high is None:
        raise ValueError("an interval has a start and an end")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"must rise from start to end, and {low} to {high} does not")
    if log and low <= 0:
        raise ValueError(f"a logarithmic scale must start above 0, not at {low}")
    if isinstance(low, int) and isinstance(high, int):
        counted = None if log else tuple(range(low, high + 1))
        return Dimension("interval", IntDistribution(low, high, log=log), counted)
    return Dimension("interval", FloatDistribution(float(low), float(high), log=log), None)


def load_hook(name: str | None) -> tuple[Hook | None, list[Fault]]:
    """`module.function` as a hook. Its parameters may come in either order: (trial, config) or (config, trial)."""
    function, faults = load_function("hydra.sweeper.custom_search_space", name, "(trial, config)")
    if function is None or list(inspect.signature(function).parameters)[:1] == ["trial"]:
        return function, faults
    return lambda trial, config: function(config, trial), []


def load_function(
    setting: str, name: str | None, called: str
) -> tuple[Callable[..., Any] | None, list[Fault]]:
    """What a setting names as `module.function`; called: with what it will be called, in words."""
    if not name:
        return None, []
    module, _, attribute = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute)
        inspect.signature(function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        remedy = f"cannot be imported ({error}); give module.function, called with {called}"
        return None, [Fault(setting, name, remedy)]
    return function, []


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Value:
    """Ask a trial for a value of any distribution."""
    if isinstance(distribution, CategoricalDistribution):
        chosen: Value = trial.suggest_categorical(name, distribution.choices)
        return chosen
    if isinstance(distribution, IntDistribution):
        step = {} if distribution.log else {"step": distribution.step}
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log, **step)
    if isinstance(distribution, FloatDistribution):
        low, high, log = distribution.low, distribution.high, distribution.log
        return trial.suggest_float(name, low, high, step=distribution.step, log=log)
    raise TypeError(f"{name}: cannot choose from {distribution!r}")


def spelt(value: Value) -> str:
    """A number, truth value or null as Hydra's grammar writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def quoted(text: str) -> str:
    """A text as an override's value; in quotes unless Hydra reads it as this very text."""
    try:
        override = OverridesParser.create().parse_override(f"key={text}")
        if (
            not override.is_sweep_override()
            and override.value() == text
            and isinstance(override.value(), str)
        ):
            return text
    except HydraException:
        pass
    escaped = text.replace("\\'", "\\\\'").replace("'", "\\'")
    return f"'{escaped}'"


def describe(distribution: BaseDistribution) -> str:
    """A distribution as one would type it."""
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({','.join(v if isinstance(v, str) else spelt(v) for v in distribution.choices)})"
    if isinstance(distribution, (IntDistribution, FloatDistribution)):
        bounds = f"{spelt(distribution.low)},{spelt(distribution.high)}"
        if distribution.log:
            return f"tag(log,interval({bounds}))"
        whole = isinstance(distribution, IntDistribution)
        if distribution.step is None or (whole and distribution.step == 1):
            return f"interval({bounds})"
        return f"{bounds.replace(',', ' to ')} in steps of {spelt(distribution.step)}"
    return repr(distribution)


def _marked(value: Value) -> tuple[str, Value]:
    """Python takes 1, 1.0 and true for equal; settings do not."""
    return type(value).__name__, value
