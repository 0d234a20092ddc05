"""The run's page in a real browser: clicks, keys, filters, sorts; nothing from outside, nothing to complain of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jdx.report import write_report
from tests.jdx.run_folders import make_run
from tests.servers.chromium import ENTER, ESCAPE, RIGHT, Browser


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A run with a diagnosis: Cat of 00 is a copy, all of 01 is under-stylised."""
    run = make_run(tmp_path / "a run")
    finding = {"kind": "copy", "prompt": "Cat", "text": "like the reference “<b>cow”"}
    whole = {"kind": "under-stylised", "prompt": None, "text": "the whole style"}
    drift = [{"kind": "colour drift", "prompt": p, "text": "lighter by 9 L*"} for p in ("Cat", "Ice cream")]
    styles = {"00": {"findings": [finding]}, "01": {"findings": [whole, *drift]}}
    (run / "diagnosis.json").write_text(json.dumps({"styles": styles}))
    return write_report(run)


def _clean(browser: Browser) -> None:
    assert browser.complaints() == []
    requests = browser.requests()
    assert requests
    assert [url for url in requests if not url.startswith("file:")] == []


def test_a_click_enlarges_and_keys_go_on(browser: Browser, page: Path) -> None:
    browser.open(page)
    buttons = browser.all("figure button")
    assert len(buttons) == 8
    buttons[0].click()
    browser.wait("document.getElementById('viewer').open")
    first = browser.one("#viewer-picture").get_attribute("alt")
    browser.wait("document.getElementById('viewer-picture').src.startsWith('file:')")  # the full picture
    browser.one("#viewer-close").send_keys(RIGHT)
    second = browser.one("#viewer-picture").get_attribute("alt")
    assert second != first
    browser.one("#viewer-back").click()
    assert browser.one("#viewer-picture").get_attribute("alt") == first
    browser.one("#viewer-close").send_keys(ESCAPE)
    browser.wait("!document.getElementById('viewer').open")
    browser.wait("document.activeElement === document.querySelector('figure button')")
    browser.js("document.querySelectorAll('figure button')[1].focus()")
    browser.driver.switch_to.active_element.send_keys(ENTER)
    assert browser.one("#viewer-picture").get_attribute("alt") == second
    _clean(browser)


def test_headings_sort(browser: Browser, page: Path) -> None:
    def order() -> list[str]:
        return [cell.text for cell in browser.all("#styles tbody td:first-child")]

    browser.open(page)
    assert order() == ["01", "00"]
    browser.one("#styles th:first-child button").click()
    assert order() == ["00", "01"]
    assert browser.one("#styles th:first-child").get_attribute("aria-sort") == "ascending"
    browser.one("#styles th:nth-child(3) button").send_keys(ENTER)  # histogram: .8 and .4
    assert order() == ["01", "00"]
    browser.one("#styles th:nth-child(3) button").click()
    assert order() == ["00", "01"]
    _clean(browser)


def test_a_kind_of_fault_is_shown_alone(browser: Browser, page: Path) -> None:
    def shown() -> list[str]:
        visible = (
            "return [...document.querySelectorAll('.drawn + .grid figure')].filter(f => f.checkVisibility())"
        )
        return list(browser.js(f"{visible}.map(f => f.querySelector('span').textContent)"))

    browser.open(page)
    assert len(shown()) == 6
    chips = {chip.get_attribute("data-kind"): chip for chip in browser.all(".chips button")}
    assert list(chips) == ["", "colour drift", "copy"]
    chips["colour drift"].click()
    assert sorted(shown()) == ["Cat", "Ice cream"]
    chips["copy"].click()
    assert shown() == ["Cat"]
    assert "like the reference “<b>cow”" in browser.one("figure.wanted .fault").text
    chips[""].click()
    assert len(shown()) == 6
    _clean(browser)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_and_can_be_read(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.size(width)
    browser.scheme(scheme)
    browser.open(page)
    assert browser.js("return document.documentElement.scrollWidth") <= width
    ink, paper = (
        sum(map(int, browser.js(f"return getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3)")))
        for name in ("color", "backgroundColor")
    )
    assert abs(ink - paper) > 3 * 128
    assert (paper > ink) == (scheme == "light")
    _clean(browser)
