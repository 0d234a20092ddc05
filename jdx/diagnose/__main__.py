"""`python -m jdx.diagnose RUN`: what is likely wrong with a run's pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluation.errors import EvaluationError
from jdx.diagnose.findings import KINDS, Diagnosis, StyleDiagnosis
from jdx.diagnose.run import Options, diagnose
from jdx.errors import BackendError
from jdx.files import write_text
from jdx.report.page import write_report
from jdx.report.run_folder import DIAGNOSIS


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python -m jdx.diagnose",
        description="The likely fault of each picture of a run, in words and numbers.",
        epilog=f"Writes RUN/{DIAGNOSIS} and puts the faults under the pictures of RUN/report.html. docs/report.md.",
    )
    out.add_argument("run", type=Path, metavar="RUN", help="such as outputs/DATE/TIME")
    out.add_argument("--json", action="store_true", help="print the diagnosis as JSON in place of the tables")
    text = "challenge, mini, a judges.json, or none (default: those that scored the run)"
    out.add_argument("--judges", metavar="SET", help=text)
    out.add_argument("--device", default="auto", help="of the judges: auto (default), cpu, cuda, cuda:1 …")
    out.add_argument("--dry", action="store_true", help="write nothing into the run folder")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, also where faults were found, 1 when pictures or judges fail, 2 for no run."""
    args = parser().parse_args(arguments)
    errors = Console(stderr=True)
    from transformers.utils import logging as transformers_logging  # takes a second: not for --help

    transformers_logging.disable_progress_bar()
    try:
        with errors.status("diagnosing") as status:

            def progress(style: str, done: int, of: int) -> None:
                status.update(f"style {style} ({done + 1} of {of})")

            found = diagnose(args.run, Options(args.judges, args.device), progress)
        if not args.dry:
            write_text(args.run / DIAGNOSIS, _json(found))
            write_report(args.run)
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    except (BackendError, EvaluationError) as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        print(_json(found), end="")
    else:
        show(found, Console())
    return 0


def _json(found: Diagnosis) -> str:
    return json.dumps(found.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def show(found: Diagnosis, console: Console) -> None:
    """Print a summary, and each style's faults with the thresholds they rest on."""
    for note in found.notes:
        console.print(note, markup=False, soft_wrap=True)
    summary = Table(title=f"{escape(found.run)}: pictures with a fault (judges: {escape(found.judges)})")
    for head in ("style", "pictures", "faulty", *KINDS):
        summary.add_column(head, justify="left" if head == "style" else "right")
    for style in found.styles:
        by_kind = [
            len({f.prompt for f in style.findings if f.kind == kind and f.prompt is not None})
            for kind in KINDS
        ]
        summary.add_row(
            escape(style.id), *(str(n) if n else "·" for n in (style.pictures, style.faulty, *by_kind))
        )
    console.print(summary)
    for style in found.styles:
        _show_style(style, console)
    console.print(
        f"Thresholds: the spread of each style's own references; a check is wrong about one sound picture in "
        f"{round(1 / found.false_alarms)}.",
        soft_wrap=True,
    )


def _show_style(style: StyleDiagnosis, console: Console) -> None:
    if style.findings:
        table = Table(title=f"style {escape(style.id)}", title_justify="left", show_lines=False)
        for head in ("picture", "fault", "in words"):
            table.add_column(head, overflow="fold")
        for finding in style.findings:
            table.add_row(escape(finding.prompt or "all"), finding.kind, escape(finding.text))
        console.print(table)
    for line in style.thresholds:
        console.print(f"  style {style.id}, {line}", markup=False, highlight=False, soft_wrap=True)
    for line in style.skipped:
        console.print(f"  style {style.id}, not looked at: {line}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
