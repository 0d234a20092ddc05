"""From a sweep to what its page shows: rows of trials, the best and the median picture by picture, failures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jdx.progress import duration
from jdx.report.run_folder import RunFolder
from jdx.report.thumbs import inline_all, inline_strip, picture_budget
from sweeps.report.plots import Plot, plots
from sweeps.report.read import Sweep
from sweeps.results import Row

PICTURE_BYTES = 7_000_000
"""Of all compared pictures as base64 text: beside plotly's 4.8 MB the page stays below 15 MB."""
STRIP = 5
"""Pictures of a trial in the table."""
STRIPS = 300
"""Trials that get some: at 6 KB each, below 2 MB."""


@dataclass(frozen=True)
class Cell:
    """One value of the table: what is shown, and what it is sorted by."""

    text: str
    key: str


@dataclass(frozen=True)
class TrialView:
    """One row of the table."""

    number: int
    mark: str  # best, median, or nothing
    state: str
    values: tuple[Cell, ...]
    params: tuple[Cell, ...]
    time: Cell
    link: str  # of the trial's own report; empty without one
    strip: str | None


@dataclass(frozen=True)
class Pair:
    """One prompt in two trials: thumbnails and the full pictures' addresses."""

    prompt: str
    best: str | None
    median: str | None
    best_link: str
    median_link: str


@dataclass(frozen=True)
class Contest:
    """The best trial against the median one, by style."""

    best: int
    median: int
    best_value: str
    median_value: str
    styles: Mapping[str, tuple[Pair, ...]]
    hidden: int  # prompts that only one of both has drawn


@dataclass(frozen=True)
class Failure:
    """One reason, and the trials that ended with it."""

    reason: str
    trials: tuple[int, ...]


@dataclass(frozen=True)
class SweepView:
    """All that the template needs."""

    name: str
    command: str
    best_command: str
    objectives: tuple[str, ...]
    params: tuple[str, ...]
    counts: Mapping[str, int]
    best: str
    best_trial: int | None
    time: str
    trials: tuple[TrialView, ...]
    plots: tuple[Plot, ...]
    contest: Contest | None
    no_contest: str
    failures: tuple[Failure, ...]


def sweep_view(sweep: Sweep) -> SweepView:
    """Read all that the page shows."""
    best = sweep.best
    params = tuple(dict.fromkeys(name for row in sweep.rows for name in row.params))
    seconds = sum(row.gpu_seconds or 0.0 for row in sweep.rows)
    contest = _contest(sweep)
    return SweepView(
        name=sweep.study.study_name,
        command=str(sweep.head.get("command", "")),
        best_command=sweep.command(),
        objectives=tuple(sweep.objectives),
        params=params,
        counts=_counts(sweep.rows),
        best=_values(best) if best is not None else "–",
        best_trial=best.number if best is not None else None,
        time=duration(seconds) if seconds else "",
        trials=_trials(sweep, params),
        plots=tuple(plots(sweep.study, sweep.objectives)),
        contest=contest,
        no_contest="" if contest else _why_no_contest(sweep),
        failures=_failures(sweep.rows),
    )


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    states = Counter(row.state for row in rows)
    stopped = sum(row.pruned for row in rows)
    named = {
        "finished": states["complete"] + states["pruned"] - stopped,
        "stopped early": stopped,
        "failed": states["fail"],
        "running": states["running"],
        "waiting": states["waiting"],
    }
    return {name: count for name, count in named.items() if count or name == "finished"}


def _values(row: Row) -> str:
    return ", ".join(f"{value:.5g}" for value in row.values or ())


def _trials(sweep: Sweep, params: Sequence[str]) -> tuple[TrialView, ...]:
    """Ranked trials, then the others by number."""
    ranked = {row.number for row in sweep.ranked}
    rows = [*sweep.ranked, *(row for row in sweep.rows if row.number not in ranked)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        strips = list(pool.map(lambda row: _strip(sweep, row), rows[:STRIPS]))
    return tuple(
        _trial(sweep, row, params, strip) for row, strip in zip_longest(rows, strips, fillvalue=None) if row
    )


def _strip(sweep: Sweep, row: Row) -> str | None:
    """The first picture of each style, then the second ones, until there are enough."""
    run = sweep.run(row)
    images = run / "images" if run is not None else None
    if images is None or not images.is_dir():
        return None
    by_style = [
        list(islice(sorted(folder.glob("*.png")), STRIP))
        for folder in islice(sorted(images.iterdir()), STRIP)
    ]
    turns = [path for turn in zip_longest(*by_style) for path in turn if path is not None]
    return inline_strip(turns[:STRIP])


def _trial(sweep: Sweep, row: Row, params: Sequence[str], strip: str | None) -> TrialView:
    best, median, run = sweep.best, sweep.median, sweep.run(row)
    report = run / "report.html" if run is not None else None
    marks = [name for name, one in (("best", best), ("median", median)) if one and one.number == row.number]
    values: Sequence[float | None] = row.values or [None] * len(sweep.higher)
    return TrialView(
        number=row.number,
        mark=" ".join(marks),
        state=_state(row),
        values=tuple(_cell(value) for value in values),
        params=tuple(_cell(row.params.get(name)) for name in params),
        time=Cell(duration(row.seconds), f"{row.seconds:.3f}") if row.seconds is not None else Cell("", ""),
        link=_link(sweep.folder, report) if report is not None and report.is_file() else "",
        strip=strip,
    )


def _state(row: Row) -> str:
    if row.pruned:
        return "estimate" if row.values else "stopped"
    return "known before" if row.warm_start else row.state


def _cell(value: Any) -> Cell:
    if value is None:
        return Cell("", "")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return Cell(str(value), str(value))
    return Cell(f"{value:.5g}" if isinstance(value, float) else str(value), repr(value))


def _link(folder: Path, path: Path) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def _contest(sweep: Sweep) -> Contest | None:
    best, median = sweep.best, sweep.median
    if best is None or median is None or best.number == median.number:
        return None
    runs = [sweep.run(row) for row in (best, median)]
    if runs[0] is None or runs[1] is None:
        return None
    first, second = RunFolder(runs[0]), RunFolder(runs[1])
    pairs = {style: _both(first.pictures(style), second.pictures(style)) for style in first.styles()}
    paths = [path for some in pairs.values() for both in some.values() for path in both]
    every = sum(len(first.pictures(s)) + len(second.pictures(s)) for s in {*first.styles(), *second.styles()})
    thumbs = inline_all(paths, picture_budget(len(paths), PICTURE_BYTES))

    def pair(prompt: str, a: Path, b: Path) -> Pair:
        return Pair(prompt, thumbs[a], thumbs[b], _link(sweep.folder, a), _link(sweep.folder, b))

    styles = {
        style: tuple(pair(prompt, *both) for prompt, both in some.items())
        for style, some in pairs.items()
        if some
    }
    if not styles:
        return None
    return Contest(
        best.number, median.number, _values(best), _values(median), styles, hidden=every - len(paths)
    )


def _both(one: Mapping[str, Path], other: Mapping[str, Path]) -> dict[str, tuple[Path, Path]]:
    return {prompt: (path, other[prompt]) for prompt, path in one.items() if prompt in other}


def _why_no_contest(sweep: Sweep) -> str:
    if sweep.median is None:
        return "Fewer than three trials have finished and left pictures, so there is no best and median to compare."
    return "The best and the median trial have no pictures of the same prompts."


def _failures(rows: Sequence[Row]) -> tuple[Failure, ...]:
    """By reason, the most frequent first."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if row.state == "fail":
            found.setdefault(row.reason or "no reason was recorded", []).append(row.number)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[1]))
    return tuple(Failure(reason, tuple(numbers)) for reason, numbers in ordered)
