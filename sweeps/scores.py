"""What a running trial reports, as a pruner needs it: events of its jobs become steps and values."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.pruners import BasePruner, WilcoxonPruner

Mode = Literal["off", "paired", "progress"]
REPETITION = 100_000
"""Steps of one repetition come after all of the one before: a set has fewer styles than this."""


def mode_of(pruner: BasePruner | None) -> Mode:
    """paired: the same styles of two trials are compared, in any order. progress: how far, and how good so far."""
    if pruner is None:
        return "off"
    return "paired" if isinstance(pruner, WilcoxonPruner) else "progress"


def shuffled(styles: Sequence[str], key: str) -> list[str]:
    """The styles in an order of the trial's own, so that no style decides about every trial."""
    order = sorted(styles)
    random.Random(key).shuffle(order)
    return order


@dataclass
class Scores:
    """All reports of one trial's jobs. A style that a second attempt scores again keeps its first score."""

    mode: Mode
    repetitions: int
    _styles: dict[tuple[int, int], float] = field(default_factory=dict)
    _snapshots: dict[int, dict[int, float]] = field(default_factory=dict)

    def take(self, repetition: int, events: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
        """(step, value) pairs that these events add."""
        return [pair for event in events for pair in self._one(repetition, event)]

    @property
    def pairs(self) -> dict[int, float]:
        """{step: score} of every style, as the paired mode numbers them, whatever the mode."""
        return {repetition * REPETITION + index: score for (repetition, index), score in self._styles.items()}

    @property
    def styles(self) -> int:
        """How many styles are scored, over all repetitions."""
        return len(self._styles)

    def _one(self, repetition: int, event: Mapping[str, Any]) -> list[tuple[int, float]]:
        if event.get("kind") == "style":
            return self._style(repetition, int(event["index"]), float(event["score"]))
        if event.get("kind") == "snapshot" and self.mode == "progress":
            return self._snapshot(repetition, int(event["step"]), float(event["score"]))
        return []

    def _style(self, repetition: int, index: int, score: float) -> list[tuple[int, float]]:
        if (repetition, index) in self._styles:
            return []
        self._styles[repetition, index] = score
        if self.mode == "paired":
            return [(repetition * REPETITION + index, score)]
        if self.mode == "progress" and not self._snapshots:
            return [(len(self._styles), sum(self._styles.values()) / len(self._styles))]
        return []

    def _snapshot(self, repetition: int, step: int, score: float) -> list[tuple[int, float]]:
        """A snapshot counts when all repetitions have come to it."""
        there = self._snapshots.setdefault(step, {})
        complete = len(there) == self.repetitions
        there.setdefault(repetition, score)
        if complete or len(there) < self.repetitions:
            return []
        return [(step, sum(there.values()) / len(there))]
