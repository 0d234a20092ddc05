"""Tables of points that can be read in 80 columns: short names, short values, nothing cut in two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

FRAME, EDGE = 3, 1
"""Cells that a column's frame takes, and the table's last edge."""


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """{dotted key: its last parts}, as few as no other key ends with: unet.lr and text_encoder.lr."""
    parts = {key: key.split(".") for key in keys}
    ends = Counter(".".join(words[-n:]) for words in parts.values() for n in range(1, len(words) + 1))
    return {
        key: next((end for n in range(1, len(words)) if ends[end := ".".join(words[-n:])] == 1), key)
        for key, words in parts.items()
    }


def short_value(value: Any) -> str:
    """A setting's value in few characters: three digits of a number, a list without its quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    text = str(value)
    if text.startswith("[") and text.endswith("]"):
        return text[1:-1].replace("'", "").replace('"', "").replace(" ", "")
    return text


def heading(name: str) -> str:
    """A name in two lines where it is long: the last part alone tells least."""
    front, dot, last = name.rpartition(".")
    return f"{front}.\n{last}" if dot and len(name) > 8 else name


def fitting(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, expendable: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Which columns to show: (their places, the heads left out).

    expendable: heads that may go, the first one first.
    """
    widths = {
        head: max([*map(cell_len, head.split("\n")), *(cell_len(row[i]) for row in rows)])
        for i, head in enumerate(heads)
    }
    shown, left_out = list(heads), []
    for head in expendable:
        if sum(widths[one] + FRAME for one in shown) + EDGE <= width:
            break
        shown.remove(head)
        left_out.append(head.replace("\n", ""))
    return [heads.index(head) for head in shown], left_out


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[int, str], shown: Sequence[int]
) -> Table:
    """The columns `shown`; styles: {row: how it is printed}. Only what is wider than the terminal is folded."""
    made = Table()
    for i in shown:
        made.add_column(escape(heads[i]), overflow="fold")
    for number, row in enumerate(rows):
        made.add_row(*(escape(row[i]) for i in shown), style=styles.get(number, ""))
    return made
