"""Who watches a trial: a sweep hears each style's score as it comes, and may end the trial between styles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class SweepRun:
    """Which attempt of which trial of which study a run is."""

    study: str
    trial: int
    attempt: int = 0
    seed: int | None = None  # the repetition's seed, where a point of the sweep is run with several

    @property
    def id(self) -> str:
        """A name that no other attempt has."""
        repetition = "" if self.seed is None else f"-s{self.seed}"
        return f"{self.study}-{self.trial}{repetition}-{self.attempt}"


class Observer:
    """Watches one trial; this one sees nothing, changes nothing and never ends a trial."""

    run: SweepRun | None = None

    def order(self, styles: Sequence[str]) -> Sequence[str]:
        """The styles in the order in which they are to be done; it changes no result."""
        return styles

    def style(self, style: str, index: int, score: float) -> None:
        """A style is scored. index: its place in the sorted set, the same in every trial; score: higher is better."""

    def snapshot(self, step: int, score: float) -> None:
        """All styles are scored as they were after `step` training steps; score: the final score."""

    def stopping(self) -> bool:
        """Whether the trial should end now with what it has."""
        return False


_NOBODY = Observer()
_current: ContextVar[Observer] = ContextVar("observer", default=_NOBODY)


def current() -> Observer:
    """Who watches the trial that this process runs."""
    return _current.get()


@contextmanager
def watched(observer: Observer) -> Iterator[None]:
    """Have `observer` watch the trials that are run inside the block."""
    token = _current.set(observer)
    try:
        yield
    finally:
        _current.reset(token)
