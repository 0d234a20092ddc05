"""The few exception classes of jdx; each one is a decision for the caller.

ConfigError  the user's request is wrong: stop, show every fault, load nothing.
BackendError the machine or the model is at fault (missing weights, out of memory, disk full): this attempt failed,
             a retry or another device may work.
NotMadeError the store lacks a stage's result: whoever only looked makes it, or leaves it to others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jdx.words import counted


@dataclass(frozen=True)
class Fault:
    """One thing wrong with an input.

    key: dotted name of the setting, or a path; value: what was given, as text; allowed: what would be right and
    what to do about it.
    """

    key: str
    value: str
    allowed: str

    def __str__(self) -> str:
        given = f" = {self.value}" if self.value else ""
        return f"{self.key}{given}\n      {self.allowed}"


class ConfigError(ValueError):
    """The request cannot be carried out as written; every fault found is in `faults`; what: what was asked."""

    def __init__(self, faults: Sequence[Fault], what: str = "configuration"):
        self.faults, self.what = tuple(faults), what
        super().__init__(
            f"{counted(len(self.faults), 'fault')} in the {what}:\n"
            + "\n".join(f"  - {fault}" for fault in self.faults)
        )


class BackendError(RuntimeError):
    """The model, the device or the environment failed; the request itself was valid."""


class NotMadeError(Exception):
    """A stage would have to compute, where only what the store has was asked for."""


def told(error: BaseException, most: int = 200) -> str:
    """An error's kind and the first line of what it says, for a line of the log."""
    said = str(error).strip()
    kind = type(error).__name__
    return f"{kind}: {said.splitlines()[0][:most]}" if said else kind
