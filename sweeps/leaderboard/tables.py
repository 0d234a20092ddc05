"""A leaderboard as text: rows of cells that every output shares, and files of four kinds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from jdx._version import __version__
from jdx.errors import ConfigError, Fault
from jdx.files import write_text
from sweeps.leaderboard.boards import METRICS, Board, Row
from sweeps.leaderboard.published import Reported
from sweeps.leaderboard.runs import LeftOut

HEADS = {
    "dino": "DINO ↑",
    "hist": "Hist ↑",
    "fid": "FID ↓",
    "lpips": "LPIPS ↓",
    "clip_iqa": "IQA ↑",
    "clip_r": "CLIP-R ↑",
}
WORDS = "difference or luck"
MARK = f"jdx leaderboard {__version__}"
READING = (
    "Intervals are 95 %, by bootstrap over styles and, within them, seeds (how FID enters: docs/leaderboard.md). "
    "p (styles): would other styles show the difference too? p (these): do these styles show it, or could new seeds "
    "undo it? Both are Wilcoxon signed-rank tests, two-sided, Holm-corrected for the board's number of comparisons."
)


@dataclass(frozen=True)
class Leaderboard:
    """All that is shown and written."""

    boards: Sequence[Board]
    left_out: Sequence[LeftOut]

    @property
    def why_apart(self) -> list[str]:
        """One line for each board after the first: what keeps it apart."""
        if len(self.boards) < 2:
            return []
        first = self.boards[0]
        return [
            f"not comparable with the first board: {board.title}: {_apart(first, board)}"
            for board in self.boards[1:]
        ]


def _apart(one: Board, other: Board) -> str:
    words = {
        "judges": "other judges (networks or settings)",
        "data": "another set",
        "model": "another base model",
        "selected": "on one of them the judges chose the pictures that they score",
    }
    return ", ".join(text for key, text in words.items() if getattr(one.key, key) != getattr(other.key, key))


def record(board: Board, row: Row) -> dict[str, Any]:
    """One row as plain values; the columns of the CSV file and the objects of the JSON file."""
    recipe, comparison = row.recipe, row.comparison
    found: dict[str, Any] = {
        "rank": row.rank,
        "label": row.label,
        "method": recipe.method,
        "recipe": recipe.digest,
        "seeds": len(recipe.runs),
        "candidates": recipe.runs[0].candidates,
        "final_score": row.score,
        "low": row.interval.low if row.interval else None,
        "high": row.interval.high if row.interval else None,
        **{name: recipe.mean(name) for name in METRICS},
        "gpu_seconds": recipe.gpu_seconds,
        "seconds": recipe.seconds,
        "seconds_incomplete": recipe.reused,
        "baseline": row.is_baseline,
    }
    difference = comparison.difference if comparison else None
    span = difference.interval if difference else None
    return found | {
        "difference": difference.value if difference else None,
        "difference_low": span.low if span else None,
        "difference_high": span.high if span else None,
        "styles_paired": difference.styles if difference else None,
        "pairs": difference.pairs if difference else None,
        "p_styles": difference.p_styles if difference else None,
        "p_styles_holm": comparison.p_styles if comparison else None,
        "p_these": difference.p_cells if difference else None,
        "p_these_holm": comparison.p_cells if comparison else None,
        "verdict": comparison.words if comparison else None,
        "reported": False,
        "runs": [run.name for run in recipe.runs],
    }


def reported_record(row: Reported) -> dict[str, Any]:
    """A published score in the same columns."""
    return {
        "label": f"{row.who}: {row.how}",
        "final_score": row.score,
        **dict(row.metrics),
        "reported": True,
        "scored_by": row.scored_by,
        "source": row.source,
    }


def as_json(leaderboard: Leaderboard) -> str:
    """Everything, for programs."""
    boards = [
        {
            "title": board.title,
            "judges": {"name": board.judges, "digest": board.key.judges},
            "data": {
                "name": board.data,
                "digest": board.key.data,
                "styles": board.styles,
                "prompts": board.prompts,
            },
            "model": {"name": board.model, "identity": board.key.model},
            "rows": [record(board, row) for row in board.rows],
            "reported": [reported_record(row) for row in board.reported],
            "notes": list(board.notes),
        }
        for board in leaderboard.boards
    ]
    left_out = [{"name": one.name, "reason": one.reason} for one in leaderboard.left_out]
    content = {"made_by": MARK, "boards": boards, "left_out": left_out}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(leaderboard: Leaderboard) -> str:
    """One line per recipe and published score; `board` says which lines may be compared."""
    rows: list[dict[str, Any]] = []
    for board in leaderboard.boards:
        own = [record(board, row) for row in board.rows] + [reported_record(row) for row in board.reported]
        rows += [
            {"board": board.title, "judges": board.key.judges, "data": board.key.data, **row} for row in own
        ]
    heads = list(dict.fromkeys(key for row in rows for key in row)) or ["board"]
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: _csv(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _csv(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list) else value


def heads(board: Board) -> list[str]:
    """Column heads of the tables for people."""
    return ["#", "recipe", "seeds", "final score", "95 %", *_against_heads(board), *HEADS.values(), "GPU-s"]


def _against_heads(board: Board) -> list[str]:
    if board.baseline is None:
        return []
    return ["− baseline", "p (styles)", "p (these)", WORDS]


def cells(board: Board, row: Row) -> list[str]:
    """One line of the tables for people."""
    span = f"{row.interval.low:.4f} – {row.interval.high:.4f}" if row.interval else "–"
    metrics = [f"{row.recipe.mean(name):.{2 if name == 'fid' else 4}f}" for name in METRICS]
    compared = [] if board.baseline is None else against(row)
    first = [str(row.rank), row.label, str(len(row.recipe.runs)), f"{row.score:.4f}", span]
    return [*first, *compared, *metrics, _seconds(row)]


def _seconds(row: Row) -> str:
    least = "≥ " if row.recipe.reused else ""
    if row.recipe.gpu_seconds is not None:
        return f"{least}{row.recipe.gpu_seconds:.0f}"
    return "–" if row.recipe.seconds is None else f"{least}{row.recipe.seconds:.0f} (CPU)"


def against(row: Row) -> list[str]:
    """Difference, the two p-values, and what they mean."""
    if row.is_baseline:
        return ["", "", "", "baseline"]
    assert row.comparison is not None
    difference = row.comparison.difference
    span = difference.interval
    shown = f" ({span.low:+.4f} … {span.high:+.4f})" if span else ""
    return [
        f"{difference.value:+.4f}{shown}",
        _p(row.comparison.p_styles),
        _p(row.comparison.p_cells),
        row.comparison.words,
    ]


def _p(p: float | None) -> str:
    return "–" if p is None else "< .001" if p < 0.001 else f"{p:.3f}"


def reported_cells(board: Board, row: Reported) -> list[str]:
    """A published score in the same table."""
    metrics = [
        f"{row.metrics[name]:.{2 if name == 'fid' else 4}f}" if row.metrics else "" for name in METRICS
    ]
    first = ["", f"reported ({row.scored_by}): {row.who}: {row.how}", "", f"{row.score:.4f}", ""]
    return [*first, *([""] * len(_against_heads(board))), *metrics, ""]


def as_markdown(leaderboard: Leaderboard) -> str:
    """For a README or an issue."""
    lines = [f"<!-- {MARK} -->", ""]
    for board in leaderboard.boards:
        columns = heads(board)
        lines += [f"### {_md(board.title)}", "", _md_row(columns), "|" + "---|" * len(columns)]
        lines += [_md_row(cells(board, row)) for row in board.rows]
        lines += [_md_row(reported_cells(board, row)) for row in board.reported]
        lines += ["", *(f"- {_md(note)}" for note in board.notes), ""]
    lines += [READING, ""]
    lines += [f"- {_md(line)}" for line in leaderboard.why_apart]
    if leaderboard.left_out:
        lines += ["", "Left out:", ""]
        lines += [f"- {_md(one.name)}: {_md(one.reason)}" for one in leaderboard.left_out]
    return "\n".join(lines) + "\n"


def _md_row(row: Sequence[str]) -> str:
    return "| " + " | ".join(map(_md, row)) + " |"


def _md(text: str) -> str:
    for sign in ("\\", "|", "*", "_", "`", "<"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def as_html(leaderboard: Leaderboard) -> str:
    """One page that needs no network and no other file. Every text of a run is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    boards = [_page_board(board) for board in leaderboard.boards]
    template = environment.get_template("page.html.j2")
    return template.render(
        mark=MARK,
        words=WORDS,
        boards=boards,
        reading=READING,
        apart=leaderboard.why_apart,
        left_out=leaderboard.left_out,
    )


def _page_board(board: Board) -> dict[str, Any]:
    spans = [(row.interval.low, row.interval.high) for row in board.rows if row.interval]
    values = (
        [row.score for row in board.rows]
        + [row.score for row in board.reported]
        + [v for s in spans for v in s]
    )
    low, high = min(values), max(values)
    width = (high - low) or 1.0

    def place(value: float) -> float:
        return round(100 * (value - low) / width, 2)

    rows = [
        {
            "cells": cells(board, row),
            "score": place(row.score),
            "bar": (place(row.interval.low), place(row.interval.high)) if row.interval else None,
            "kind": "baseline" if row.is_baseline else "",
        }
        for row in board.rows
    ]
    rows += [
        {"cells": reported_cells(board, row), "score": place(row.score), "bar": None, "kind": "reported"}
        for row in board.reported
    ]
    return {
        "title": board.title,
        "heads": heads(board),
        "rows": rows,
        "notes": board.notes,
        "sources": _sources(board),
    }


def _sources(board: Board) -> list[str]:
    return list(dict.fromkeys(f"{row.who}: {row.source}" for row in board.reported))


WRITERS = {"csv": as_csv, "json": as_json, "markdown": as_markdown, "html": as_html}
MARKS: Mapping[str, str] = {
    "csv": "board,",
    "json": '{\n "made_by": "jdx leaderboard',
    "markdown": "<!-- jdx leaderboard",
    "html": "<!doctype html>\n<!-- jdx leaderboard",
}
"""How our own files of an earlier time begin: only these are replaced."""


def check_targets(targets: Mapping[str, Path]) -> None:
    """Refuse, before the work, places where a file cannot go or where something else lies. Raises: ConfigError."""
    faults = []
    for kind, path in targets.items():
        if not path.parent.is_dir():
            faults.append(
                Fault(f"--{kind}", str(path), f"the folder {path.parent} does not exist; make it first")
            )
        elif path.is_dir():
            faults.append(Fault(f"--{kind}", str(path), "is a folder; name a file in it"))
        elif path.exists() and not _is_ours(path, MARKS[kind]):
            faults.append(
                Fault(f"--{kind}", str(path), "a file that is no leaderboard lies there; name another one")
            )
    if faults:
        raise ConfigError(faults, what="command")


def _is_ours(path: Path, mark: str) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark.encode())) == mark.encode()


def write(leaderboard: Leaderboard, targets: Mapping[str, Path]) -> None:
    """Write the files asked for, each whole or not at all."""
    for kind, path in targets.items():
        write_text(path, WRITERS[kind](leaderboard))
