"""How far a new member of a small group may lie from it: the thresholds of a diagnosis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

FALSE_ALARMS = 0.005
"""Chance that one check finds a fault in a picture that is like the references, if they are normally spread."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of n numbers (n - 1 in the denominator, at least `floor`)."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float], floor: float = 0.0) -> Spread:
        """Of two or more finite numbers. floor: differences below it mean nothing, however alike the group is.

        Raises: ValueError for fewer.
        """
        if len(values) < 2:
            raise ValueError(f"{len(values)} values have no spread; two or more are needed")
        return cls(float(np.mean(values)), max(float(np.std(values, ddof=1)), floor), len(values))

    def reach(self, alarms: float = FALSE_ALARMS) -> float:
        """Half-width of the one-sided prediction interval of a further value: t(1 - alarms, n - 1) · s · √(1 + 1/n).

        It is wide for small groups as it must be: with three references it is 11 s, with ten 3.4 s.
        """
        t = float(stats.t.ppf(1 - alarms, self.n - 1))
        return t * self.std * math.sqrt(1 + 1 / self.n)

    @property
    def low(self) -> float:
        """Below this a further value is unlike the group."""
        return self.mean - self.reach()

    @property
    def high(self) -> float:
        """Above this a further value is unlike the group."""
        return self.mean + self.reach()


def cosine_spread(cosines: Sequence[float], floor: float = 0.0) -> Spread:
    """Spread of correlations on Fisher's scale, artanh, where they are nearly normal; compare `fisher` with it."""
    return Spread.of([fisher(value) for value in cosines], floor)


def fisher(cosine: float) -> float:
    """Fisher's z of a correlation; ±1 is held at ±0.9999."""
    return math.atanh(min(max(cosine, -0.9999), 0.9999))
