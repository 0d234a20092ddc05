"""A sweep's page: in a real browser, and what it says of sweeps that are not as they should be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage

from jdx.report.thumbs import picture_budget
from sweeps import storage
from sweeps.leaderboard.sources import gather
from sweeps.report import write_page
from sweeps.report.__main__ import main
from sweeps.report.plots import for_script, plots
from sweeps.report.read import SweepError, read_sweep
from sweeps.report.view import PICTURE_BYTES, sweep_view
from tests.servers.chromium import Browser
from tests.sweeps.report.made import make_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight trials: five measured, one estimate, two failed."""
    made = make_sweep(tmp_path_factory.mktemp("sweep") / "lora")
    write_page(made)
    return made


def _clean(browser: Browser) -> None:
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("file:")] == []


def test_best_and_median(folder: Path) -> None:
    sweep = read_sweep(folder)
    values = {row.number: row.values[0] for row in sweep.rows if row.values and not row.pruned}
    ordered = sorted(values, key=values.__getitem__)
    assert sweep.best is not None
    assert sweep.median is not None
    assert (sweep.best.number, sweep.median.number) == (ordered[-1], ordered[2])
    assert sweep.ranked[-1].pruned
    view = sweep_view(sweep)
    assert dict(view.counts) == {"finished": 5, "stopped early": 1, "failed": 2}
    assert view.contest is not None
    assert [len(pairs) for pairs in view.contest.styles.values()] == [3, 3]
    assert sorted(n for failure in view.failures for n in failure.trials) == [6, 7]


def test_plots_are_drawn_in_the_browser(browser: Browser, folder: Path) -> None:
    browser.open(folder / "sweep.html")
    assert not browser.js("return Boolean(window.Plotly)")  # it is read for the first plot, not before
    for name in ("history", "parallel", "importance", "slice"):
        browser.js(f"document.getElementById('plot-{name}-0').scrollIntoView()")
        browser.wait(f"document.querySelector('#plot-{name}-0 svg.main-svg')")
    lines = browser.js("return document.querySelectorAll('#plot-history-0 .scatterlayer .trace').length")
    assert lines >= 2  # the values, and the best so far
    browser.scheme("dark")
    ink = "document.querySelector('#plot-history-0 .xtick text').style.fill"
    browser.wait(f"{ink} === 'rgb(232, 230, 225)'")  # --ink in the dark
    _clean(browser)


def test_slider_and_enlarging(browser: Browser, folder: Path) -> None:
    browser.open(folder / "sweep.html")
    pair = browser.one("button.pair")
    where = "getComputedStyle(document.querySelector('button.pair .over')).clipPath"
    before = browser.js(f"return {where}")
    move = (
        "const r = document.getElementById(arguments[0]); r.value = 80; r.dispatchEvent(new Event('input'))"
    )
    browser.js(move, "cut")
    assert browser.js(f"return {where}") != before
    assert "80%" in browser.js("return document.getElementById('contest').style.getPropertyValue('--cut')")
    browser.js("arguments[0].scrollIntoView({block: 'center'})", pair)
    pair.click()
    browser.wait("document.getElementById('viewer').open")
    browser.wait("document.getElementById('viewer-best').src.startsWith('file:')")
    browser.wait("document.getElementById('viewer-median').src.startsWith('file:')")
    best, median = (browser.one(f"#viewer-{side}").get_attribute("src") for side in ("best", "median"))
    assert best != median
    caption = browser.one("#viewer-caption").text
    browser.one("#viewer-on").click()
    assert browser.one("#viewer-caption").text != caption
    browser.one("#viewer-close").click()
    browser.wait("!document.getElementById('viewer').open")
    _clean(browser)


def test_trials_sort_and_lead_to_their_reports(browser: Browser, folder: Path) -> None:
    def column(index: int) -> list[str]:
        return [cell.text for cell in browser.all(f"#trials tbody td:nth-child({index})")]

    browser.open(folder / "sweep.html")
    assert browser.one("#trials tbody tr").get_attribute("class") == "best"
    browser.one("#trials th:nth-child(2) button").click()
    values = [float(text) for text in column(2) if text]
    assert values == sorted(values)
    assert column(2)[-2:] == ["", ""]  # what failed has no value and comes last
    browser.one("#trials th:nth-child(2) button").click()
    assert [float(text) for text in column(2) if text] == values[::-1]
    assert column(2)[-2:] == ["", ""]
    browser.one("#trials th:nth-child(1) button").click()
    link = browser.one("#trials tbody a")
    assert link.text == "0"
    link.click()
    browser.wait("document.title === 'trial 0'")
    _clean(browser)


def test_the_command_and_the_reasons_are_told_as_they_are(browser: Browser, folder: Path) -> None:
    browser.open(folder / "sweep.html")
    assert browser.one("#best-command").text == "python -m jdx.train lora.rank=32 'note=<i>x</i>'"
    assert "OutOfMemoryError: <b>no room</b>" in browser.one("#failures").text
    browser.one("#copy").click()
    browser.wait("/copied|selected/.test(document.getElementById('copy').textContent)")
    assert browser.one("h1").text == "lora-<1>"
    _clean(browser)


@pytest.mark.parametrize("width", [360, 1280])
def test_fits(browser: Browser, folder: Path, width: int) -> None:
    browser.size(width)
    browser.open(folder / "sweep.html")
    assert browser.js("return document.documentElement.scrollWidth") <= width


def test_several_objectives(tmp_path: Path, browser: Browser) -> None:
    made = make_sweep(tmp_path / "two", objectives=2)
    browser.open(write_page(made))
    browser.js("document.getElementById('plot-front').scrollIntoView()")
    browser.wait("document.querySelector('#plot-front svg.main-svg')")
    assert browser.all("#plot-slice-1")
    _clean(browser)


def test_a_moved_sweep_finds_its_runs(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    sweep = read_sweep(moved)
    original = read_sweep(folder)
    assert sweep.best is not None
    hidden = folder.rename(folder.with_name("hidden"))
    try:
        assert sweep.run(sweep.best) == moved / str(sweep.best.number)
    finally:
        hidden.rename(folder)
    assert original.best is not None


def test_unfinished_and_broken_sweeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_sweep(tmp_path / "short", trials=3)  # no trial that ran to its end
    (made / "results.json").write_text("{torn")
    text = write_page(made).read_text(encoding="utf-8")
    assert "no trial has finished yet" in text
    assert "Fewer than three trials" in text
    assert "Not drawn" in text
    assert "plotly().react" in text
    assert 'id="plotly"' not in text  # nothing is drawn
    head = json.loads((made / "sweep.json").read_text())
    (made / "sweep.json").write_text(json.dumps(head | {"study": "another"}))
    assert main([str(made), str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "another" in said
    assert "sweep.json" in said
    (made / "study.db").unlink()
    with pytest.raises(SweepError, match=r"study\.db"):
        read_sweep(made)


def test_a_sweep_that_runs(tmp_path: Path) -> None:
    made = make_sweep(tmp_path / "running", trials=6)
    study = read_sweep(made).study
    study.ask()
    sweep = read_sweep(made, study)
    view = sweep_view(sweep)
    assert view.counts["running"] == 1
    assert [trial.state for trial in view.trials][-1] == "running"
    assert write_page(made).is_file()


def test_a_storage_password_is_not_told(tmp_path: Path) -> None:
    made = make_sweep(tmp_path / "s", trials=3)
    head = json.loads((made / "sweep.json").read_text())
    url = "nonsense://user:s3cret@host/db"
    (made / "sweep.json").write_text(json.dumps(head | {"storage": url}))
    with pytest.raises(SweepError) as caught:
        read_sweep(made)
    assert "s3cret" not in str(caught.value)


def test_a_storage_is_opened_as_the_sweep_opened_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, given = make_sweep(tmp_path / "s", trials=3), []

    def spy(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
        given.append(engine_kwargs)
        return RDBStorage(url, engine_kwargs=engine_kwargs)

    monkeypatch.setattr(storage, "RDBStorage", spy)
    head = json.loads((made / "sweep.json").read_text())
    (made / "sweep.json").write_text(json.dumps(head | {"storage_engine": {"pool_recycle": 77}}))
    read_sweep(made)
    assert len(gather([str(made)]).left_out) == 3  # the study was read: its trials are there, and unfit
    assert len(given) == 2
    assert all(one["pool_recycle"] == 77 for one in given)


def test_a_file_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    made = make_sweep(tmp_path / "s", trials=3)
    gone = tmp_path / "gone.db"
    head = json.loads((made / "sweep.json").read_text())
    (made / "sweep.json").write_text(json.dumps(head | {"storage": f"sqlite:///{gone}"}))
    with pytest.raises(SweepError, match=r"gone\.db is missing"):
        read_sweep(made)
    assert "is gone" in gather([str(made)]).left_out[0].reason
    assert "does not exist" in gather([f"sqlite:///{gone}"]).left_out[0].reason
    assert not gone.exists()


def test_json_cannot_end_its_script() -> None:
    text = json.dumps({"a": "</script><!--", "b": "\u2028"}, ensure_ascii=False)
    assert "<" not in for_script(text)
    assert json.loads(for_script(text)) == json.loads(text)


def test_plots_say_why_they_are_not_there(folder: Path) -> None:
    empty = [plot for plot in plots(read_sweep(folder).study, ["value"]) if not plot.figure]
    assert empty == []


def test_the_page_stays_below_15_mb() -> None:
    """Two trials of 15 styles and 25 prompts, whatever they show, plotly, and 50 strips of 10 KB."""
    pictures = 2 * 15 * 25 * picture_budget(2 * 15 * 25, PICTURE_BYTES) * 4 / 3
    assert pictures + 4_900_000 + 50 * 10_000 < 15_000_000
