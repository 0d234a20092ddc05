"""`python -m evaluation`: score anyone's pictures.

Exit codes: 0 scored; 1 nothing that can be scored, refused by --strict, or a report that cannot be written;
2 wrong arguments or judges.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from evaluation.cache import default_cache_dir
from evaluation.errors import EvaluationError, JudgesError
from evaluation.fid import RESIZES
from evaluation.histogram import VARIANTS
from evaluation.judges import ROLES, JudgeSpec
from evaluation.report import ScoreReport
from evaluation.scorer import ScoreOptions, score_folders
from evaluation.table import print_report


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python -m evaluation",
        description="The score of the 4th Jittor challenge, track 2: six metrics and the final score.",
        epilog="What is computed, and the official checker's oddities that are kept: docs/scoring.md.",
    )
    out.add_argument("--generated", required=True, type=Path, metavar="DIR", help="DIR/NN/PROMPT.png")
    text = "DIR/NN/images/OBJECT.png (or DIR/NN/OBJECT.png) and DIR/NN/prompt.json"
    out.add_argument("--references", required=True, type=Path, metavar="DIR", help=text)
    text = "judge set: challenge (default), mini, or the path of a judges.json (docs/judges.md)"
    out.add_argument("--backbones", default="challenge", metavar="SET", help=text)
    for role in ROLES:
        option = f"--{role.replace('_', '-')}"
        out.add_argument(option, type=Path, metavar="PATH", help=f"local folder or file of {role}'s network")
    out.add_argument("--json", type=Path, metavar="FILE", help="write the report, one number per picture")
    out.add_argument("--strict", action="store_true", help="refuse sets with missing, extra or odd pictures")
    out.add_argument("--histogram", choices=VARIANTS, default="official", help="corrected: without overflows")
    text = "Inception's resize: tf1 (default, the contest's time) or antialias (torchmetrics >= 1.8)"
    out.add_argument("--fid-resize", choices=RESIZES, default="tf1", help=text)
    out.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 …")
    out.add_argument("--batch-size", type=_positive, default=16, metavar="N", help="pictures per pass (16)")
    text = f"folder for features of references and texts (default {default_cache_dir()})"
    out.add_argument("--cache", type=Path, default=default_cache_dir(), metavar="DIR", help=text)
    out.add_argument("--no-cache", action="store_true", help="neither read nor write cached features")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = parser().parse_args(argv)
    console, errors = Console(), Console(stderr=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "transformers", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        _check_target(args.json)
        report = _score(args, errors)
    except EvaluationError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2 if isinstance(error, JudgesError) else 1
    print_report(report, console)
    if args.json is not None:
        try:
            report.write(args.json)
        except OSError as error:
            errors.print(f"error: --json {args.json}: cannot be written ({error})", style="red", markup=False)
            return 1
        console.print(f"Report: {args.json}", highlight=False, soft_wrap=True)
    return 0


def _score(args: argparse.Namespace, console: Console) -> ScoreReport:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    judges = JudgeSpec.named(args.backbones).pointed_at({role: getattr(args, role) for role in ROLES})
    options = ScoreOptions(
        histogram=args.histogram,
        fid_resize=args.fid_resize,
        device=args.device,
        batch_size=args.batch_size,
        cache=None if args.no_cache else args.cache,
        strict=args.strict,
    )
    columns = (
        TextColumn("style {task.fields[style]}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        return score_folders(args.generated, args.references, judges, options, _moves(bars))


def _moves(bars: Progress) -> Callable[[str, int, int], None]:
    task = bars.add_task("scoring", total=None, style="–")

    def move(style: str, done: int, of: int) -> None:
        bars.update(task, completed=done, total=of, style=style)

    return move


def _check_target(path: Path | None) -> None:
    """Refuse, before the work, a place where the report cannot go or where something else lies.

    Raises:
        EvaluationError: no such folder, or a file that is no report.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise EvaluationError(f"--json {path}: the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise EvaluationError(f"--json {path}: this is a folder; name a file in it")
    if path.exists() and not _is_report(path):
        raise EvaluationError(f"--json {path}: a file that is no score report lies there; name another one")


def _is_report(path: Path) -> bool:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and "final_score" in data


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= 1")
    return int(text)


def run() -> NoReturn:
    """Entry point."""
    sys.exit(main())


if __name__ == "__main__":
    run()
