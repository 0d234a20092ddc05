"""`python -m jdx.report RUN...`: make the report of finished runs again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jdx.report.page import write_report

MADE = (".hydra", "metrics.json", "seeds.json", "trial.json")
"""One of these is in every run folder; a page is not put where somebody else's may lie."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write report.html into each run folder and print its path; exit code 2 when a folder is no run's."""
    parser = argparse.ArgumentParser(
        prog="python -m jdx.report", description="Make report.html of run folders."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="such as outputs/DATE/TIME")
    code = 0
    for run in parser.parse_args(arguments).runs:
        try:
            if run.is_dir() and not any((run / name).exists() for name in MADE):
                raise FileNotFoundError(f"{run}: no trial made this folder: it has none of {', '.join(MADE)}")
            print(write_report(run))
        except OSError as error:
            print(error, file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    raise SystemExit(main())
