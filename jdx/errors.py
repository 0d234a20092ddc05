"""The few exception classes of jdx; each one is a decision for the caller.

ConfigError  the user's request is wrong: stop, show every fault, load nothing.
StyleFailed  one style of a trial cannot go on (its loss left the finite numbers): drop it, keep the others.
BackendError the machine or the model is at fault (missing weights, out of memory): this attempt failed, a retry
             on another device may work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
    """The request cannot be carried out as written; every fault found is in `faults`."""

    def __init__(self, faults: Sequence[Fault], what: str = "configuration"):
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__(f"{count} in the {what}:\n" + "\n".join(f"  - {fault}" for fault in self.faults))


class BackendError(RuntimeError):
    """The model, the device or the environment failed; the request itself was valid."""


class StyleFailed(RuntimeError):
    """One style stopped; `style`, `step` and `reason` say which, when and why. Other styles are unharmed."""

    def __init__(self, style: str, step: int, reason: str):
        self.style, self.step, self.reason = style, step, reason
        super().__init__(f"style {style} stopped at step {step}: {reason}")
