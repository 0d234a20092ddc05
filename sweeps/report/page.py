"""`sweep.html`: one sweep on one self-contained page."""

from __future__ import annotations

from pathlib import Path

import optuna
from plotly.offline import get_plotlyjs

from jdx.files import write_text
from jdx.report.page import environment
from sweeps.report.read import read_sweep
from sweeps.report.view import SweepView, sweep_view

PAGE = "sweep.html"
TEMPLATES = Path(__file__).parent / "templates"


def write_page(folder: Path, study: optuna.Study | None = None) -> Path:
    """Make `folder/sweep.html` and return its path; study: the open one, where the caller has it.

    The page needs no network and no other file; with the trials' folders beside it, a click opens their reports and
    full pictures. Raises: SweepError when the folder holds no sweep.
    """
    sweep = read_sweep(folder, study)
    target = sweep.folder / PAGE
    write_text(target, render(sweep_view(sweep)))
    return target


def render(view: SweepView) -> str:
    """The page as HTML. Every text of the sweep is escaped."""
    drawn = any(plot.figure for plot in view.plots)
    template = environment(TEMPLATES).get_template("sweep.html.j2")
    return template.render(page=view, plotly=get_plotlyjs() if drawn else "")
