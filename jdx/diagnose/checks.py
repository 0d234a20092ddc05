"""The checks of one style: from evidence to findings, with thresholds from the references' own spread."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from data.names import object_word, same_name
from jdx.diagnose import layout
from jdx.diagnose.colours import Palette, mean_lab
from jdx.diagnose.evidence import Evidence, Judged
from jdx.diagnose.findings import KINDS, Finding, StyleDiagnosis
from jdx.diagnose.spread import Spread, cosine_spread, fisher

PART_FLOOR = 0.02
"""Smallest spread that is believed of a picture's style part."""
COSINE_FLOOR = 0.08
"""The same of similarities, on Fisher's scale."""
COPY_LAYOUT = 0.85
"""A copy's layout correlates at least so much with its reference's, whatever the references' spread."""
TILT_FLOOR = 2.0
"""Degrees: the same of edge directions. The smallest tilt told is about 7 degrees."""


@dataclass
class _Notes:
    """Findings and sentences as the checks make them."""

    findings: list[Finding] = field(default_factory=list)
    thresholds: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, finding: Finding | None) -> None:
        if finding is not None:
            self.findings.append(finding)


def check_style(evidence: Evidence) -> StyleDiagnosis:
    """All checks of one style. What cannot be looked at, for want of references or judges, is said in `skipped`."""
    notes = _Notes(skipped=list(evidence.problems))
    few = len(evidence.references) < 2
    if few:
        notes.skipped.append(
            f"{len(evidence.references)} readable references: their spread needs two or more; only what CLIP-R saw "
            "and borders are looked at"
        )
    if evidence.judged is not None:
        _under_stylised(evidence.judged, notes)
        _wrong_object(evidence.judged, notes)
    if not few:
        _colours(evidence, notes)
    if evidence.judged is not None:
        _copies(evidence, evidence.judged, notes)
    _leaks(evidence, notes)
    order = {kind: i for i, kind in enumerate(KINDS)}
    findings = sorted(notes.findings, key=lambda f: (f.prompt is not None, f.prompt or "", order[f.kind]))
    return StyleDiagnosis(
        evidence.id, len(evidence.pictures), tuple(findings), tuple(notes.thresholds), tuple(notes.skipped)
    )


def _under_stylised(judged: Judged, notes: _Notes) -> None:
    """Style parts: each picture against its style's median, the median against the references' own."""
    own = Spread.of([score.style_part for score in judged.references], PART_FLOOR)
    parts = {prompt: score.style_part for prompt, score in judged.pictures.items()}
    median = statistics.median(parts.values())
    limit = median - own.reach()
    notes.thresholds.append(
        f"style part: at least {limit:.2f} = median {median:.2f} less {own.reach():.2f} (references, each against the "
        f"others: {own.mean:.2f} ± {own.std:.2f})"
    )
    if median < own.low:
        text = f"the whole style: median style part {median:.2f}, references {own.mean:.2f} (limit {own.low:.2f})"
        numbers = {"median": round(median, 4), "references": round(own.mean, 4), "limit": round(own.low, 4)}
        notes.add(Finding("under-stylised", text, numbers))
    for prompt, part in parts.items():
        if part < limit:
            score = judged.pictures[prompt]
            text = (
                f"style part {part:.2f}, median of the style {median:.2f} (limit {limit:.2f}): DINO {score.dino:.2f}, "
                f"histogram {score.hist:.2f}, LPIPS {score.lpips:.2f}"
            )
            numbers = {"style_part": round(part, 4), "median": round(median, 4), "limit": round(limit, 4)}
            notes.add(Finding("under-stylised", text, numbers, prompt))


def _wrong_object(judged: Judged, notes: _Notes) -> None:
    """What CLIP-R saw instead."""
    notes.thresholds.append(
        f"object: the prompt among CLIP-R's first five (of {len(judged.references)} references it knows {judged.named})"
    )
    for prompt, score in judged.pictures.items():
        if not score.clip_r_hit:
            seen = ", ".join(score.clip_r_top5)
            share = f"{100 * score.clip_r_probability:.1f}"
            text = f"looks like {seen}; “{prompt}” has {share} % of CLIP-R's belief"
            numbers: dict[str, float | str] = {
                "looks_like": score.clip_r_top5[0] if score.clip_r_top5 else "",
                "probability": round(score.clip_r_probability, 6),
            }
            notes.add(Finding("wrong object", text, numbers, prompt))


def _colours(evidence: Evidence, notes: _Notes) -> None:
    judged = evidence.judged
    own = [score.hist for score in judged.references] if judged else None
    palette = Palette.of([mean_lab(picture) for picture in evidence.references.values()], own)
    notes.thresholds.append(palette.words())
    for prompt, picture in evidence.pictures.items():
        hist = judged.pictures[prompt].hist if judged else None
        notes.add(palette.drift(prompt, mean_lab(picture), hist))


def _copies(evidence: Evidence, judged: Judged, notes: _Notes) -> None:
    """A copy is more like a reference than references are to each other, in DINO's eyes and in layout.

    Both are asked for: a new drawing of the same object is alike for DINO, one of the same pose in layout.
    """
    prints = {word: layout.thumbprint(picture) for word, picture in evidence.references.items()}
    words = list(prints)
    alike = [
        max(layout.likeness(prints[w], prints[v]) for v in words if v != w) for w in words
    ]  # of each reference: to the one laid out most like it
    dino, places = cosine_spread(judged.among, COSINE_FLOOR), cosine_spread(alike, COSINE_FLOOR)
    least = max(math.tanh(places.high), COPY_LAYOUT)
    notes.thresholds.append(
        f"copy: DINO above {math.tanh(dino.high):.2f} and layout above {least:.2f} (references, each to the nearest "
        f"other: {math.tanh(dino.mean):.2f} and {math.tanh(places.mean):.2f})"
    )
    for prompt, picture in evidence.pictures.items():
        near = judged.similar[prompt]
        i = max(range(len(near)), key=near.__getitem__)
        placed = layout.likeness(layout.thumbprint(picture), prints[words[i]])
        if fisher(near[i]) > dino.high and placed > least:
            same = same_name(prompt) == same_name(object_word(words[i]))
            why = "; the prompt names its object" if same else ""
            text = f"like the reference “{words[i]}”: DINO {near[i]:.2f}, layout {placed:.2f}{why}"
            numbers: dict[str, float | str] = {
                "reference": words[i],
                "dino": round(near[i], 4),
                "layout": round(placed, 4),
            }
            notes.add(Finding("copy", text, numbers, prompt))


def _leaks(evidence: Evidence, notes: _Notes) -> None:
    """Borders, empty corners and tilt that no reference has."""
    own = [layout.marks(picture) for picture in evidence.references.values()]
    framed = {side for marks in own for side in marks.bands}
    turned = any(marks.corners is not None for marks in own)
    if framed:
        notes.skipped.append(f"borders at the {', '.join(sorted(framed))}: references have some there too")
    if turned:
        notes.skipped.append("empty corners: a reference has some too")
    tilts = [marks.tilt for marks in own if marks.tilt is not None]
    upright = Spread.of(tilts, TILT_FLOOR) if len(own) > 1 and len(tilts) == len(own) else None
    if upright is None:
        notes.skipped.append("tilt: not all references have straight edges that agree on an upright")
    else:
        notes.thresholds.append(f"tilt: edges within {upright.reach():.0f}° of {upright.mean:.0f}°")
    for prompt, picture in evidence.pictures.items():
        found = layout.marks(picture)
        bands = {side: share for side, share in found.bands.items() if side not in framed}
        if found.corners is not None and not turned:
            text = f"empty corners, as of a frame turned by {min(found.corners, 90 - found.corners):.0f}°"
            notes.add(Finding("leak", text, {"degrees": found.corners}, prompt))
        elif bands:
            listed = ", ".join(f"{side} {100 * share:.0f} %" for side, share in bands.items())
            notes.add(Finding("leak", f"flat border: {listed} of the picture", bands, prompt))
        elif upright is not None and found.tilt is not None:
            off = found.tilt - upright.mean
            if abs(off) > upright.reach():
                text = f"edges turned by {off:+.0f}° (references {upright.mean:.0f}°, limit {upright.reach():.0f}°)"
                notes.add(Finding("leak", text, {"degrees": round(off, 2)}, prompt))
