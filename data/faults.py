"""What can be wrong with a data set, collected so that one report names everything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where, what, and what to do (or what is allowed)."""

    path: Path
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.remedy}"


class DataError(ValueError):
    """A data set cannot be used. `faults` holds every reason, the message lists them all."""

    faults: tuple[Fault, ...]

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"{count} in the data:\n{lines}")


@dataclass
class Findings:
    """Faults (stop) and notes (go on, but say so) gathered while one data set is read."""

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, path: Path, what: str, remedy: str) -> None:
        self.faults.append(Fault(path, what, remedy))

    def note(self, path: Path, what: str) -> None:
        self.notes.append(f"{path}: {what}")

    def stop_if_faulty(self) -> None:
        """Raise `DataError` with all faults so far; do nothing when there are none."""
        if self.faults:
            raise DataError(self.faults)
