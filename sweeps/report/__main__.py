"""`python -m sweeps.report SWEEP_DIR...`: make the page of sweeps again, also while they run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sweeps.report.page import PAGE, write_page
from sweeps.report.read import SweepError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page into each sweep's folder and print its path; exit code 2 when a folder holds no sweep."""
    parser = argparse.ArgumentParser(
        prog="python -m sweeps.report", description=f"Make {PAGE} of sweeps, finished or not."
    )
    text = "a sweep's folder (it holds sweep.json), such as multirun/STUDY"
    parser.add_argument("sweeps", type=Path, nargs="+", metavar="SWEEP_DIR", help=text)
    code = 0
    for folder in parser.parse_args(arguments).sweeps:
        try:
            print(write_page(folder))
        except (OSError, SweepError) as error:
            print(error, file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    raise SystemExit(main())
