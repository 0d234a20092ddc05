"""Which parts an adapter trains, in which steps, and which adapters can share a pass; for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jdx.backends.base import AdapterSpec


@dataclass(frozen=True)
class Window:
    """The steps in which a part learns: those after `start` are done, until `stop` are (None = to the end)."""

    start: int = 0
    stop: int | None = None

    def open(self, done: int) -> bool:
        """Whether the step that follows `done` finished ones belongs to the window."""
        return done >= self.start and (self.stop is None or done < self.stop)

    def horizon(self, end: int) -> int:
        """Length of the window in a training that ends after `end` steps."""
        return (end if self.stop is None else self.stop) - self.start


def has_prior(adapter: AdapterSpec) -> bool:
    """Whether a style learns from class pictures at all, in a loss of their own or among its samples."""
    return adapter.prior_weight > 0 or adapter.prior_fraction is not None


def alike(adapters: Sequence[AdapterSpec]) -> list[tuple[AdapterSpec, ...]]:
    """Adapters grouped by what a pass over them looks like, in order of first appearance."""
    groups: dict[tuple[object, ...], list[AdapterSpec]] = {}
    for adapter in adapters:
        groups.setdefault(structure(adapter), []).append(adapter)
    return [tuple(group) for group in groups.values()]


def structure(adapter: AdapterSpec) -> tuple[object, ...]:
    """What adapters that share a pass have in common."""
    text = adapter.text_encoder.rank > 0 or adapter.tokens is not None
    passes = (adapter.prior_weight > 0, text, adapter.enhancer is not None)
    return (*passes, *windows_of(adapter).values())


def windows_of(adapter: AdapterSpec) -> dict[str, Window]:
    """The steps in which each part of an adapter learns, by the part's name."""
    return {
        "unet": Window(adapter.unet_start),
        "text_encoder": Window(adapter.text_encoder_start),
        "enhancer": Window(),
        "tokens": Window(0, adapter.tokens.steps if adapter.tokens else None),
    }


def trained_windows(adapter: AdapterSpec) -> dict[str, Window]:
    """`windows_of`, without the parts that this adapter does not have."""
    has = {
        "unet": adapter.unet.rank > 0,
        "text_encoder": adapter.text_encoder.rank > 0,
        "enhancer": adapter.enhancer is not None,
        "tokens": adapter.tokens is not None,
    }
    return {name: window for name, window in windows_of(adapter).items() if has[name]}
