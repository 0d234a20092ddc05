"""What was measured as Markdown: every row, then the ratios that were aimed at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MARK = ("<!-- sd21: begin -->", "<!-- sd21: end -->")
TRAIN_TFLOP = 1.77
"""Of a training sample: forward, and backward to the activations and the adapters, none to the base's weights."""
FORWARD_TFLOP = 0.805
"""Of one row of the UNet's pass; a guided picture has two a step."""

TIMES = ("s", "min")
"""Units of which less is better."""


def tables(records: Iterable[Mapping[str, Any]]) -> str:
    """The rows of all processes, each environment named once, and the ratios."""
    records = list(records)
    where = dict.fromkeys(_where(record["environment"]) for record in records)
    rows = [row for record in records for row in record["rows"]]
    lines = [*where, "", "| subject | what | value | GiB of tensors | how |", "|---|---|---|---|---|"]
    for row in rows:
        memory = "" if row["gib"] is None else f"{row['gib']:.1f}"
        lines.append(
            f"| {row['subject']} | {row['what']} | {row['value']:.4g} {row['unit']} | {memory} | {row['note']} |"
        )
    return "\n".join([*lines, "", *_ratios(rows)])


def _where(environment: Mapping[str, str]) -> str:
    cards = environment["devices"]
    names = f"{cards} × {environment['device']}" if int(cards) > 1 else environment["device"]
    return (
        f"{names}, torch {environment['torch']} (CUDA {environment['cuda']}), diffusers {environment['diffusers']}, "
        f"Python {environment['python']}, {environment['date']}. `python -m benchmarks.sd21_gpu`"
    )


def _ratios(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown rows of what was aimed at; those whose numbers are not there are left out."""
    best = _best(rows)
    trained = {what: value for (subject, what), value in best.items() if subject == "train" and "jdx" in what}
    fastest = max(trained.values(), default=None)
    drawn, roof = best.get(("draw", "jdx")), best.get(("roof", "bfloat16 matmul 8192"))
    steps = 40
    share = None if drawn is None or roof is None else 100 * drawn * 2 * steps * FORWARD_TFLOP / roof
    found: list[tuple[str, str, float | None]] = [
        ("training against the script's UNet part", "≥ 7 ×", _over(fastest, best, "train", "UNet only")),
        ("training against the whole script", "≥ 12 ×", _over(fastest, best, "train", "whole step")),
        ("stacked against one adapter alone", "≥ 1.8 ×", _over(fastest, best, "train", "jdx, 1 styles")),
        (
            "training, share of the matmul roof",
            "≥ 45 %",
            None if fastest is None or roof is None else 100 * fastest * TRAIN_TFLOP / roof,
        ),
        ("drawing against a call per prompt", "≥ 4.7 ×", _over(drawn, best, "draw", "pipeline, 1 ")),
        ("drawing against calls of 25", "≥ 1.35 ×", _over(drawn, best, "draw", "pipeline, 25")),
        ("drawing, share of the roof (the UNet's products; decoding's time too)", "≥ 55 %", share),
        ("StyleID against picture by picture", "≥ 6 ×", _under(best, "styleid", "picture by picture", "jdx")),
        ("2 cards against 1", "≥ 1.9 ×", _under(best, "scaling", "1 cards", "2 cards")),
        ("4 cards against 1", "≥ 3.6 ×", _under(best, "scaling", "1 cards", "4 cards")),
    ]
    lines = ["| ratio | aimed at | measured |", "|---|---|---|"]
    return lines + [f"| {what} | {aim} | {value:.3g} |" for what, aim, value in found if value is not None]


def _best(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """The best of what several processes measured of the same: the shortest time, the highest rate."""
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        key, value = (row["subject"], row["what"]), row["value"]
        better = min if row["unit"] in TIMES else max
        best[key] = better(best.get(key, value), value)
    return best


def _over(ours: float | None, best: Mapping[tuple[str, str], float], subject: str, part: str) -> float | None:
    theirs = next((v for (s, what), v in best.items() if s == subject and part in what), None)
    return None if ours is None or not theirs else ours / theirs


def _under(best: Mapping[tuple[str, str], float], subject: str, theirs: str, ours: str) -> float | None:
    slow = next((v for (s, what), v in best.items() if s == subject and what.startswith(theirs)), None)
    fast = best.get((subject, ours))
    return None if slow is None or not fast else slow / fast


def write(path: Path, text: str) -> None:
    """Put the tables between the marks of a document."""
    before, _, rest = path.read_text().partition(MARK[0])
    _, _, after = rest.partition(MARK[1])
    path.write_text(f"{before}{MARK[0]}\n{text}\n{MARK[1]}{after}")
