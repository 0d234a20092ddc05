"""From runs to boards: what may be compared is grouped, ranked and tested; nothing else is put side by side."""

from __future__ import annotations

import statistics as plain
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jdx.errors import ConfigError, Fault
from jdx.words import counted
from sweeps.columns import short_value
from sweeps.leaderboard.published import Reported, reported_for
from sweeps.leaderboard.runs import BoardKey, LeftOut, Run
from sweeps.statistics import DRAWS, FEWEST, Cells, Difference, Interval, difference, holm, interval, verdict

METRICS = ("dino", "hist", "fid", "lpips", "clip_iqa", "clip_r")
VARYING_SHOWN = 4
"""Settings in a recipe's label."""
BASELINES_SHOWN = 5
"""Of the recipes that a --baseline may mean."""


@dataclass(frozen=True)
class Recipe:
    """Runs that differ in their seeds only."""

    digest: str
    runs: Sequence[Run]

    @property
    def method(self) -> str:
        return self.runs[0].method

    @property
    def cells(self) -> Cells:
        """All seeds, on the styles of the board."""
        parts = [run.cells for run in self.runs]
        return Cells(
            parts[0].styles,
            np.concatenate([part.of(parts[0].styles).values for part in parts]),
            np.concatenate([part.of(parts[0].styles).pictures for part in parts]),
        )

    def mean(self, metric: str) -> float:
        """One of the six metrics, averaged over the seeds."""
        return plain.fmean(float(run.metrics[metric]) for run in self.runs)

    @property
    def gpu_seconds(self) -> float | None:
        """Of one run; None where none ran on a GPU."""
        known = [run.gpu_seconds for run in self.runs if run.gpu_seconds is not None]
        return plain.fmean(known) if known else None

    @property
    def seconds(self) -> float | None:
        """Of one run."""
        known = [run.seconds for run in self.runs if run.seconds is not None]
        return plain.fmean(known) if known else None

    @property
    def reused(self) -> bool:
        """Whether the seconds are too few, since stages came from the store."""
        return any(run.reused for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """Against the baseline: p-values are corrected for the board's number of comparisons."""

    difference: Difference
    p_styles: float | None
    p_cells: float | None
    words: str


@dataclass(frozen=True)
class Row:
    """One line of a board."""

    rank: int
    label: str
    recipe: Recipe
    score: float
    interval: Interval | None
    is_baseline: bool = False
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Board:
    """Recipes that were scored by the same judges on the same set with the same base model."""

    key: BoardKey
    judges: str
    data: str
    model: str
    styles: int
    prompts: int | None
    rows: Sequence[Row]
    reported: Sequence[Reported] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def title(self) -> str:
        """What the board is of."""
        prompts = f", {counted(self.prompts, 'prompt')}" if self.prompts else ""
        counts = sorted({run.candidates for row in self.rows for run in row.recipe.runs})
        chosen = f", best of {'/'.join(map(str, counts))} by these judges" if self.key.selected else ""
        return f"{self.model} on {self.data} ({counted(self.styles, 'style')}{prompts}), judges: {self.judges}{chosen}"

    @property
    def baseline(self) -> Row | None:
        """The row that the others are compared with."""
        return next((row for row in self.rows if row.is_baseline), None)


def make_boards(
    runs: Sequence[Run], baseline: str | None = None, draws: int = DRAWS
) -> tuple[list[Board], list[LeftOut]]:
    """Boards, the one with most recipes first, and the runs that are copies of others.

    baseline: a run's name, the beginning of a recipe's hash, a label or a method. A board with several such recipes
    is left as it is, with a note. Raises: ConfigError when no board has exactly one.
    """
    kept, copies = _witnesses(runs)
    groups: dict[BoardKey, list[Run]] = defaultdict(list)
    for run in kept:
        groups[run.key].append(run)
    boards = [_board(key, some, draws) for key, some in groups.items()]
    boards.sort(key=lambda board: (-len(board.rows), board.title))
    if baseline is not None:
        boards = _compared(boards, baseline, draws)
    return boards, copies


def _witnesses(runs: Sequence[Run]) -> tuple[list[Run], list[LeftOut]]:
    """One run per recipe and seed: a second one repeats what the first says and would pass for another witness."""
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.key, run.recipe, run.seed].append(run)
    kept, left_out = [], []
    for same in groups.values():
        # The latest; of copies with one date the one that is here, not on a server.
        same.sort(key=lambda run: (run.finished, not run.name.startswith("W&B ")))
        kept.append(same[-1])
        for run in same[:-1]:
            what = f"the same recipe and seed as {same[-1].name}: no further witness"
            differs = abs(run.score - same[-1].score) > 1e-9
            scores = (
                f" (scores {run.score:.4f} and {same[-1].score:.4f}; the later run counts)" if differs else ""
            )
            left_out.append(LeftOut(run.name, what + scores))
    order = {id(run): place for place, run in enumerate(runs)}
    return sorted(kept, key=lambda run: order[id(run)]), left_out


def _board(key: BoardKey, runs: Sequence[Run], draws: int) -> Board:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.recipe].append(run)
    recipes = [Recipe(digest, sorted(some, key=lambda run: run.name)) for digest, some in groups.items()]
    recipes.sort(key=lambda recipe: -recipe.cells.score)
    labels = _labels(recipes)
    rows = [
        Row(rank, labels[recipe.digest], recipe, recipe.cells.score, interval(recipe.cells, draws))
        for rank, recipe in enumerate(recipes, start=1)
    ]
    first = runs[0]
    names = sorted({str(run.settings.get("data.name", "?")) for run in runs})
    return Board(
        key=key,
        judges="/".join(sorted({run.judges for run in runs})),
        data="/".join(names),
        model="/".join(sorted({run.model for run in runs})),
        styles=len(first.styles),
        prompts=first.data.get("prompts"),
        rows=rows,
        reported=reported_for(first),
        notes=[*_choice_notes(key, rows), *_notes(rows)],
    )


def _labels(recipes: Sequence[Recipe]) -> dict[str, str]:
    """Method, and the settings in which recipes of one method differ; the hash where that leaves two alike."""
    labels = {}
    for recipe in recipes:
        family = [other.runs[0].essence for other in recipes if other.method == recipe.method]
        own = recipe.runs[0].essence
        keys = sorted({key for one in family for key in one})
        varying = _varying(keys, family)
        words = [f"{_short(key, varying)}={short_value(own.get(key))}" for key in varying[:VARYING_SHOWN]]
        more = f" +{len(varying) - VARYING_SHOWN}" if len(varying) > VARYING_SHOWN else ""
        labels[recipe.digest] = " ".join([recipe.method, *words]) + more
    alike = list(labels.values())
    return {
        digest: label if alike.count(label) == 1 else f"{label} #{digest[:6]}"
        for digest, label in labels.items()
    }


def _varying(keys: Sequence[str], family: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys in which recipes differ; of those that always go together (lora.rank, lora.unet.rank) the first."""
    columns: dict[tuple[str, ...], str] = {}
    for key in keys:
        column = tuple(repr(one.get(key)) for one in family)
        if len(set(column)) > 1:
            columns.setdefault(column, key)
    return list(columns.values())


def _short(key: str, keys: Sequence[str]) -> str:
    """As few of the last parts of a dotted key as tell it from the others, at least two."""
    parts = key.split(".")
    for count in range(2, len(parts)):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in keys) == 1:
            return end
    return key


def _choice_notes(key: BoardKey, rows: Sequence[Row]) -> list[str]:
    """Where pictures were, or may have been, chosen by their scores."""
    notes = []
    if key.selected:
        notes.append(
            "the judges that score the pictures chose them among candidates: such scores lie above those of pictures "
            "as they come, the more so the more candidates"
        )
    given = sum(any(run.settings.get("sampler.seeds") for run in row.recipe.runs) for row in rows)
    if given:
        which = counted(given, "recipe") + (" draws" if given == 1 else " draw")
        notes.append(
            f"{which} from a file of seeds (sampler.seeds): where these were chosen by their pictures, "
            "the score is one of chosen pictures"
        )
    return notes


def _notes(rows: Sequence[Row]) -> list[str]:
    recipes = [row.recipe for row in rows]
    notes = []
    alone = len(recipes[0].cells.styles) == 1
    single = sum(len(recipe.runs) == 1 for recipe in recipes)
    if single:
        which = "all recipes have" if single == len(recipes) else f"{single} of {len(recipes)} recipes have"
        known = "nothing tells" if alone else "their intervals cover the choice of styles, not"
        notes.append(f"{which} one seed: {known} the luck of training; run more seeds")
    if alone:  # FID is this style's own, so nothing is missing about its share
        notes.append("one style: there are no intervals, and what other styles would show cannot be told")
    elif not all(run.knows_fid for recipe in recipes for run in recipe.runs):
        notes.append("some runs do not say what each style does to FID: there FID counts as known exactly")
    if any(recipe.reused for recipe in recipes):
        notes.append("≥: some stages came from the store, so that these seconds are too few")
    return notes


def _compared(boards: Sequence[Board], baseline: str, draws: int) -> list[Board]:
    found = [_find(board, baseline) for board in boards]
    if not any(len(rows) == 1 for rows in found):
        names = ", ".join(sorted({row.label for board in boards for row in board.rows})) or "none"
        remedy = f"no recipe of this name; give a run folder, a method, a recipe's hash, or one of: {names}"
        several = [_several(board, rows) for board, rows in zip(boards, found, strict=True) if rows]
        faults = [Fault("--baseline", baseline, text) for text in several or [remedy]]
        raise ConfigError(faults, what="command")
    return [
        _against(board, rows[0], draws) if len(rows) == 1 else _apart(board, rows, baseline)
        for board, rows in zip(boards, found, strict=True)
    ]


def _apart(board: Board, meant: Sequence[Row], name: str) -> Board:
    """A board without one baseline among those that have one: said where there are several."""
    if not meant:
        return board
    return replace(board, notes=[*board.notes, f"not compared: --baseline {name} {_several(board, meant)}"])


def _several(board: Board, rows: Sequence[Row]) -> str:
    first = ", ".join(f"{row.recipe.digest[:8]} ({row.label})" for row in rows[:BASELINES_SHOWN])
    more = f" or {len(rows) - BASELINES_SHOWN} more" if len(rows) > BASELINES_SHOWN else ""
    return f"means {len(rows)} recipes of the board {board.title}; give a run folder or a hash: {first}{more}"


def _find(board: Board, name: str) -> list[Row]:
    """The rows that are meant."""
    wanted = name.rstrip("/")
    exact = [
        row
        for row in board.rows
        if wanted == row.label or any(run.name.rstrip("/") == wanted for run in row.recipe.runs)
    ]
    return exact or [
        row
        for row in board.rows
        if wanted == row.recipe.method or (len(wanted) >= 4 and row.recipe.digest.startswith(wanted))
    ]


def _against(board: Board, baseline: Row, draws: int) -> Board:
    others = [row for row in board.rows if row is not baseline]
    differences = [difference(row.recipe.cells, baseline.recipe.cells, draws) for row in others]
    by_styles = holm([one.p_styles for one in differences])
    by_cells = holm([one.p_cells for one in differences])
    compared: Mapping[str, Comparison] = {
        row.recipe.digest: Comparison(
            one, p_styles, p_cells, verdict(one.value, one.pairs, p_styles, p_cells, "the baseline")
        )
        for row, one, p_styles, p_cells in zip(others, differences, by_styles, by_cells, strict=True)
    }
    notes = list(board.notes)
    if 1 < board.styles < FEWEST:
        least = 2 / 2**board.styles
        notes.append(
            f"with {board.styles} styles p (styles) cannot fall below {least:.3f}: whether other styles would show a "
            f"difference cannot be told"
        )
    rows = [
        replace(row, is_baseline=row is baseline, comparison=compared.get(row.recipe.digest))
        for row in board.rows
    ]
    return replace(board, rows=rows, notes=notes)
