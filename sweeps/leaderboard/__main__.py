"""`python -m sweeps.leaderboard [RUNS...]`: exit code 0 ranked, 1 nothing to rank, 2 wrong arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jdx.errors import ConfigError
from sweeps.leaderboard.boards import Board, make_boards
from sweeps.leaderboard.sources import gather, gather_wandb
from sweeps.leaderboard.tables import (
    HEADS,
    READING,
    WORDS,
    WRITERS,
    Leaderboard,
    against,
    cells,
    check_targets,
    heads,
    reported_cells,
    write,
)
from sweeps.statistics import DRAWS

DEFAULT = ("outputs", "multirun")
LEFT_OUT_SHOWN = 30
WIDE = 170
"""Columns of a terminal that hold the whole table."""
RANKING = ("#", "recipe", "seeds", "final score", "95 %")
RECIPE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    args = _parser().parse_args(arguments)
    targets = {kind: Path(path) for kind in WRITERS if (path := getattr(args, kind))}
    try:
        check_targets(targets)
        found = gather(args.runs or ([] if args.wandb else _default()))
        if args.wandb:
            gather_wandb(args.wandb, found)
        boards, copies = make_boards(found.runs, args.baseline if found.runs else None, args.draws)
        leaderboard = Leaderboard(boards, [*found.left_out, *copies])
        write(leaderboard, targets)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    show(leaderboard, Console())
    return 0 if boards else 1


def _default() -> list[str]:
    """Where runs and sweeps go unless told otherwise."""
    return [name for name in DEFAULT if Path(name).is_dir()] or [DEFAULT[0]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m sweeps.leaderboard", description="Rank runs, and say what is luck."
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUNS",
        help=f"run folders, folders that hold some, sweep folders, study.db, storage URLs ({' and '.join(DEFAULT)})",
    )
    parser.add_argument(
        "--wandb", metavar="ENTITY/PROJECT", help="the runs of a Weights & Biases project too"
    )
    parser.add_argument(
        "--baseline", metavar="RECIPE", help="compare with this run folder, method, label or recipe hash"
    )
    parser.add_argument(
        "--draws", type=_draws, default=DRAWS, metavar="N", help=f"of the bootstrap ({DRAWS})"
    )
    for kind in WRITERS:
        parser.add_argument(f"--{kind}", metavar="FILE", help=f"write it as {kind} too")
    return parser


def _draws(text: str) -> int:
    if not text.isdecimal() or int(text) < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= 100")
    return int(text)


def show(leaderboard: Leaderboard, console: Console) -> None:
    """Boards, what was left out and why, and how to read it."""
    for board in leaderboard.boards:
        console.print()
        for table in _tables(board, console.width):
            console.print(table)
        for row in board.rows:
            if row.comparison is not None:
                value, p_styles, p_these, words = against(row)
                line = f"{row.label}: {value}, p (styles) {p_styles}, p (these) {p_these}: {words}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        for note in board.notes:
            console.print(f"note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    for line in leaderboard.why_apart:
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    _show_left_out(leaderboard, console)
    if not leaderboard.boards:
        console.print("Nothing could be ranked.", style="red")
        return
    console.print(READING, style="dim", markup=False, highlight=False)
    if all(board.baseline is None for board in leaderboard.boards):
        console.print("To see which differences are more than luck: --baseline RECIPE", markup=False)


def _tables(board: Board, width: int) -> list[Table]:
    """One table, or two where the terminal is narrow: of recipes, and of numbers by rank (published scores have none).

    Verdicts are printed below: sentences leave numbers no room.
    """
    shown = [head for head in heads(board) if head != WORDS]
    if width >= WIDE:
        return [_table(board, shown, board.title)]
    ranking = [head for head in RANKING if head in shown]
    who = shown[:2] if board.reported else shown[:1]
    numbers = [*who, *HEADS.values(), "GPU-s"]
    return [_table(board, ranking, board.title), _table(board, numbers, "")]


def _table(board: Board, shown: Sequence[str], title: str) -> Table:
    places = [heads(board).index(head) for head in shown]
    table = Table(title=escape(title) or None, title_justify="left")
    for place, head in zip(places, shown, strict=True):
        words = place == RECIPE
        table.add_column(
            escape(head),
            justify="left" if words else "right",
            overflow="fold",
            no_wrap=not words,
            min_width=10 if words else None,
        )
    for row in board.rows:
        line = cells(board, row)
        table.add_row(*(escape(line[place]) for place in places), style="bold" if row.is_baseline else "")
    if board.reported:
        table.add_section()
    for reported in board.reported:
        line = reported_cells(board, reported)
        table.add_row(*(escape(line[place]) for place in places), style="dim italic")
    return table


def _show_left_out(leaderboard: Leaderboard, console: Console) -> None:
    if not leaderboard.left_out:
        return
    console.print(f"\nleft out ({len(leaderboard.left_out)}):", style="yellow")
    for one in leaderboard.left_out[:LEFT_OUT_SHOWN]:
        console.print(f"  {one.name}: {one.reason}", markup=False, highlight=False, soft_wrap=True)
    if len(leaderboard.left_out) > LEFT_OUT_SHOWN:
        more = len(leaderboard.left_out) - LEFT_OUT_SHOWN
        console.print(f"  … and {more} more (--json FILE has all)", markup=False)


if __name__ == "__main__":
    sys.exit(main())
