"""The leaderboard's page in a real browser: headings sort numbers as numbers, empty cells last, nothing from afar."""

from __future__ import annotations

from pathlib import Path

from sweeps.leaderboard.__main__ import main
from tests.servers.chromium import ENTER, Browser
from tests.sweeps.scored_runs import put_run


def test_headings_sort(browser: Browser, tmp_path: Path) -> None:
    for rank, (shift, seconds) in enumerate([(0.0, 900.0), (0.1, 80.0), (0.05, 1000.0)]):
        put_run(tmp_path / "runs" / str(rank), shift, rank=rank, about={"seconds": {"train": seconds}})
    page = tmp_path / "board.html"
    label = "dreambooth lora.rank=0"
    assert main([str(tmp_path / "runs"), "--baseline", label, "--draws", "100", "--html", str(page)]) == 0

    def order() -> list[str]:
        return [cell.text[-1] for cell in browser.all("tbody td:nth-child(2)")]

    def press(head: str) -> None:
        button = next(one for one in browser.all("th button") if one.text.startswith(head))
        button.send_keys(ENTER)

    browser.open(page)
    assert order() == ["1", "2", "0"]  # by score
    press("GPU-s")
    assert order() == ["1", "0", "2"]  # 80, 900, 1000: as numbers, not as texts
    press("GPU-s")
    assert order() == ["2", "0", "1"]
    press("− baseline")
    assert order() == ["2", "1", "0"]  # the baseline has none
    press("− baseline")
    assert order() == ["1", "2", "0"]
    assert browser.js("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("file:")] == []
