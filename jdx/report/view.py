"""From a run folder to what the page shows: numbers as text, styles from the weakest, thumbnails inlined."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data.names import object_word
from evaluation.formula import style_part
from jdx.report.curves import Chart, loss_chart
from jdx.report.run_folder import RunFolder
from jdx.report.thumbs import inline_all, picture_budget


@dataclass(frozen=True)
class Metric:
    """How one of the six metrics is called and read."""

    key: str
    name: str
    meaning: str
    digits: int = 4


METRICS = (
    Metric("hist", "Histogram ↑", "colours as in the references; weight 0.4 of the style part"),
    Metric("lpips", "LPIPS ↓", "perceptual distance to the references; weight 0.4 of the style part"),
    Metric("dino", "DINO ↑", "likeness to the references; weight 0.2 of the style part"),
    Metric("clip_r", "CLIP-R ↑", "share of pictures that show their prompt; weight 0.5 of the quality part"),
    Metric("fid", "FID ↓", "distance between the two sets; weight 0.4 of the quality part, 20 earns none", 2),
    Metric("clip_iqa", "CLIP-IQA ↑", "picture quality; weight 0.1 of the quality part"),
)
STYLE_METRICS = tuple(metric for metric in METRICS if metric.key != "fid")


@dataclass(frozen=True)
class Fault:
    """A likely fault, as the diagnosis names and tells it."""

    kind: str
    text: str


@dataclass(frozen=True)
class PictureView:
    """One thumbnail. `link` is the full picture, relative to the page; the page works without it."""

    caption: str
    thumb: str | None
    link: str
    note: str = ""
    miss: str = ""
    faults: tuple[Fault, ...] = ()

    @property
    def words(self) -> str:
        """What is wrong, for the enlarged picture."""
        told = [f"{fault.kind}: {fault.text}" for fault in self.faults]
        return "\n".join(told) or self.miss


@dataclass(frozen=True)
class StyleView:
    """One style: its scores as text, and its pictures."""

    id: str
    part: float | None
    scores: Mapping[str, float | None]
    references: tuple[PictureView, ...]
    pictures: tuple[PictureView, ...]
    faults: tuple[Fault, ...] = ()

    @property
    def faulty(self) -> int:
        """How many pictures have a likely fault."""
        return sum(bool(picture.faults) for picture in self.pictures)


@dataclass(frozen=True)
class PageView:
    """All that the template needs."""

    name: str
    final_score: float | None
    style_part: float | None
    quality_part: float | None
    metrics: Mapping[str, float | None]
    styles: tuple[StyleView, ...]
    chart: Chart | None
    judges: str
    candidates: int  # per prompt, among which the judges chose; 1 = none
    complete: bool
    missing: tuple[str, ...]
    faults: tuple[str, ...]
    facts: Mapping[str, str]
    command: str
    config: str
    problems: tuple[str, ...]
    diagnosed: bool
    kinds: Mapping[str, int]  # of fault -> pictures that have it


def page_view(folder: RunFolder) -> PageView:
    """Read everything; whatever is missing is empty here and a sentence in `problems`."""
    numbers = folder.metrics
    ids = folder.styles()
    paths = [path for style in ids for path in _paths(folder, style)]
    thumbs = inline_all(paths, picture_budget(len(paths)))
    styles = [_style_view(folder, style, thumbs) for style in ids]
    # the config and command are read before the problems they may add are listed
    config, command = folder.config_text(), folder.command()
    return PageView(
        name=folder.root.resolve().name,
        final_score=_number(numbers.get("final_score")),
        style_part=_number(numbers.get("style_part")),
        quality_part=_number(numbers.get("quality_part")),
        metrics={metric.key: _number(numbers.get(metric.key)) for metric in METRICS},
        styles=tuple(sorted(styles, key=_weakest_first)),
        chart=loss_chart(folder.losses),
        judges=_judges(numbers),
        candidates=_candidates(numbers),
        complete=bool(numbers.get("complete", True)),
        missing=_texts(numbers.get("missing")),
        faults=_texts(numbers.get("faults")),
        facts=_facts(numbers),
        command=command,
        config=config,
        problems=_problems(folder, ids),
        diagnosed=bool(folder.diagnosis),
        kinds=_kinds(styles),
    )


def _kinds(styles: list[StyleView]) -> dict[str, int]:
    every = [{fault.kind for fault in picture.faults} for style in styles for picture in style.pictures]
    return dict(Counter(kind for kinds in every for kind in sorted(kinds)).most_common())


Thumbs = Mapping[Path, str | None]


def _paths(folder: RunFolder, style: str) -> list[Path]:
    return [*folder.references.get(style, []), *folder.pictures(style).values()]


def _style_view(folder: RunFolder, style: str, thumbs: Thumbs) -> StyleView:
    raw = folder.style_scores().get(style, {})
    scores = {metric.key: _number(raw.get(metric.key)) for metric in STYLE_METRICS}
    details = folder.picture_scores(style)
    faults: dict[str | None, list[Fault]] = {}
    for found in folder.findings(style):
        faults.setdefault(found.get("prompt"), []).append(Fault(str(found["kind"]), str(found["text"])))
    return StyleView(
        id=style,
        part=_style_part(scores),
        scores=scores,
        references=tuple(
            _picture(folder.root, path, object_word(path.stem), {}, thumbs[path])
            for path in folder.references.get(style, [])
        ),
        pictures=tuple(
            replace(
                _picture(folder.root, path, prompt, details.get(prompt, {}), thumbs[path]),
                faults=tuple(faults.get(prompt, ())),
            )
            for prompt, path in folder.pictures(style).items()
        ),
        faults=tuple(faults.get(None, ())),
    )


def _picture(
    root: Path, path: Path, caption: str, scores: Mapping[str, Any], thumb: str | None
) -> PictureView:
    hist = _number(scores.get("hist"))
    seen = _texts(scores.get("clip_r_top5"))
    missed = scores.get("clip_r_hit") in (False, 0)
    return PictureView(
        caption=caption,
        thumb=thumb,
        link=quote(Path(os.path.relpath(path, root)).as_posix()),
        note="" if hist is None else f"{hist:.2f}",
        miss=f"seen as {', '.join(seen) or 'something else'}" if missed else "",
    )


def _style_part(scores: Mapping[str, float | None]) -> float | None:
    dino, hist, lpips = scores["dino"], scores["hist"], scores["lpips"]
    if dino is None or hist is None or lpips is None:
        return None
    return style_part(dino, hist, lpips)


def _weakest_first(style: StyleView) -> tuple[float, str]:
    return (math.inf if style.part is None else style.part, style.id)


def _problems(folder: RunFolder, ids: list[str]) -> tuple[str, ...]:
    without = [style for style in ids if not folder.pictures(style)]
    problems = list(folder.problems)
    if not ids:
        problems.append("there are no pictures: images/ is missing or empty")
    elif without:
        problems.append(f"no pictures of style {', '.join(without)}")
    return tuple(problems)


def _judges(numbers: Mapping[str, Any]) -> str:
    judges = numbers.get("judges")
    return str(judges.get("name", "")) if isinstance(judges, Mapping) else ""


def _candidates(numbers: Mapping[str, Any]) -> int:
    selection = numbers.get("selection")
    count = selection.get("candidates") if isinstance(selection, Mapping) else None
    return count if isinstance(count, int) else 1


def _facts(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Judges, variants and versions, flat: `judges.name`, `variants.fid_resize`, `versions.torch`."""
    facts: dict[str, str] = {}
    for group in ("judges", "variants", "versions"):
        value = numbers.get(group)
        if isinstance(value, Mapping):
            facts |= {f"{group}.{key}": item for key, item in _leaves(value)}
    return facts


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found += _leaves(value, f"{name}.") if isinstance(value, Mapping) else [(name, str(value))]
    return found


def _texts(value: object) -> tuple[str, ...]:
    """Sentences of a list of texts or of the scorer's faults ({"message": ..., "style": ...})."""
    if not isinstance(value, list | tuple):
        return ()
    return tuple(str(item.get("message", item)) if isinstance(item, dict) else str(item) for item in value)


def _number(value: object) -> float | None:
    """A finite number, or None: a page shows a dash for NaN, never a score."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
