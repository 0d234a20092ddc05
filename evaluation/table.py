"""A report for people, as a rich table."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluation.formula import FID_NEEDS
from evaluation.report import METRICS, ScoreReport

_HEADS = {
    "dino": "DINO ↑",
    "hist": "Hist ↑",
    "fid": "FID ↓",
    "lpips": "LPIPS ↓",
    "clip_iqa": "CLIP-IQA ↑",
    "clip_r": "CLIP-R ↑",
}
_FAULTS_SHOWN = 30
_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}


def print_report(report: ScoreReport, console: Console) -> None:
    """Faults, one row a style, a row overall, and the final score."""
    print_faults(report, console)
    console.print(_table(report))
    variants = ", ".join(f"{key} {value}" for key, value in report.variants.items())
    console.print(
        f"Judges: {report.judges['name']}; {variants}; {report.n_pictures} pictures",
        markup=False,
        highlight=False,
    )
    if report.final_score is None:
        console.print(f"[red]No final score: {FID_NEEDS}.[/red]")
        return
    style, quality = report.style_part, report.quality_part
    line = f"[bold]Final score {report.final_score:.6f}[/bold] = style {style:.6f} × quality {quality:.6f}"
    console.print(line, highlight=False)
    if not report.complete:
        console.print(f"[red]INCOMPLETE: {len(report.missing)} pictures are missing.[/red]", highlight=False)


def print_faults(report: ScoreReport, console: Console) -> None:
    """What the folders lack, errors first; the JSON report has all of them."""
    ranked = sorted(report.faults, key=lambda fault: list(_COLOURS).index(fault.severity))
    for fault in ranked[:_FAULTS_SHOWN]:
        colour = _COLOURS[fault.severity]
        console.print(f"[{colour}]{fault.severity}[/{colour}]", end=": ")
        console.print(fault.message, markup=False, highlight=False)
    if len(ranked) > _FAULTS_SHOWN:
        console.print(
            f"… and {len(ranked) - _FAULTS_SHOWN} more (all are in the --json report)", highlight=False
        )


def _table(report: ScoreReport) -> Table:
    table = Table("Style", *_HEADS.values(), "Pictures")
    for name, style in report.styles.items():
        values = [_number(getattr(style, metric)) for metric in METRICS]
        table.add_row(escape(name), *values, str(style.n_pictures))
    table.add_section()
    overall = [_number(report.metrics.get(metric)) for metric in METRICS]
    table.add_row("all", *overall, str(report.n_pictures), style="bold")
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
