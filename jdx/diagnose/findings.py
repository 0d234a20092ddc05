"""What a diagnosis says, as dataclasses and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = {
    "under-stylised": "style part below the style's median",
    "wrong object": "the prompt is not among CLIP-R's first five nouns",
    "colour drift": "colours unlike the references'",
    "copy": "nearer to a reference than the references are to each other",
    "leak": "a mark that augmentation leaves: border, empty corners, tilt",
}
"""Every kind of fault, and what it means; the order in which faults are listed."""


@dataclass(frozen=True)
class Finding:
    """One likely fault of a picture, or of a whole style where it has no `prompt`.

    `numbers` are what the words rest on: the measured value, the threshold, and what the references have.
    """

    kind: str
    text: str
    numbers: Mapping[str, float | str] = field(default_factory=dict)
    prompt: str | None = None


@dataclass(frozen=True)
class StyleDiagnosis:
    """One style: its faults, the thresholds that its references gave, and what could not be looked at."""

    id: str
    pictures: int
    findings: tuple[Finding, ...] = ()
    thresholds: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def of(self, prompt: str) -> list[Finding]:
        """Faults of one picture."""
        return [finding for finding in self.findings if finding.prompt == prompt]

    @property
    def faulty(self) -> int:
        """How many pictures have a fault."""
        return len({finding.prompt for finding in self.findings if finding.prompt is not None})


@dataclass(frozen=True)
class Diagnosis:
    """A run: its styles from the worst, and what was missing."""

    run: str
    styles: tuple[StyleDiagnosis, ...]
    judges: str
    false_alarms: float
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Pictures with each kind of fault, in the order of KINDS."""
        pictures = {
            (style.id, finding.prompt, finding.kind)
            for style in self.styles
            for finding in style.findings
            if finding.prompt is not None
        }
        found = Counter(kind for _, _, kind in pictures)
        return {kind: found[kind] for kind in KINDS}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values (docs/report.md)."""
        return {
            "run": self.run,
            "judges": self.judges,
            "false_alarms": self.false_alarms,
            "counts": self.counts(),
            "notes": list(self.notes),
            "styles": {style.id: _style_json(style) for style in self.styles},
        }


def _style_json(style: StyleDiagnosis) -> dict[str, Any]:
    return {
        "pictures": style.pictures,
        "faulty": style.faulty,
        "thresholds": list(style.thresholds),
        "skipped": list(style.skipped),
        "findings": [
            {"kind": f.kind, "prompt": f.prompt, "text": f.text, "numbers": dict(f.numbers)}
            for f in style.findings
        ],
    }
