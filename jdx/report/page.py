"""`report.html`: one run on one self-contained page, made from the run folder alone."""

from __future__ import annotations

from pathlib import Path

import jinja2

from jdx.files import write_text
from jdx.report.run_folder import RunFolder
from jdx.report.view import METRICS, STYLE_METRICS, PageView, page_view

TEMPLATES = Path(__file__).parent / "templates"


def write_report(run_dir: Path) -> Path:
    """Make `run_dir/report.html` and return its path.

    The page needs no network and no other file; with the run folder beside it, a click opens the full
    picture. What the folder lacks is said on the page. `FileNotFoundError` when there is no
    `run_dir`.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir} is not a folder; give a run's folder (it holds metrics.json)")
    text = render(page_view(RunFolder(run_dir)))
    target = run_dir / "report.html"
    write_text(target, text)
    return target


def render(view: PageView) -> str:
    """The page as HTML. Every text of the run is escaped."""
    template = environment().get_template("page.html.j2")
    return template.render(page=view, metrics=METRICS, style_metrics=STYLE_METRICS)


def environment(*folders: Path) -> jinja2.Environment:
    """Templates of a page: `folders` first, then the report's own parts. Every text is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = _number
    return made


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
