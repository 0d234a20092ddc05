"""A real headless Chromium, driven through selenium; what a page said and asked for is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # imported when a browser is wanted, so that all other tests run where there is no selenium
    from selenium import webdriver
    from selenium.webdriver.remote.webelement import WebElement

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
CSS = "css selector"
ENTER, ESCAPE, RIGHT = "\ue007", "\ue00c", "\ue014"
"""Keys, as WebDriver numbers them."""
PATIENCE = 120.0
"""Seconds to wait for something that a busy machine may be slow with."""


@dataclass
class Browser:
    """One window, and a few words for what tests do with it."""

    driver: webdriver.Chrome

    def open(self, page: Path) -> None:
        """Load a file; its console and requests begin anew."""
        self.driver.get("about:blank")
        self.complaints()
        self.requests()
        self.driver.get(page.absolute().as_uri())

    def all(self, css: str) -> list[WebElement]:
        """Elements by CSS selector."""
        return self.driver.find_elements(CSS, css)

    def one(self, css: str) -> WebElement:
        """The first of them."""
        return self.driver.find_element(CSS, css)

    def js(self, script: str, *arguments: Any) -> Any:
        """The value of a script's `return`."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, PATIENCE).until(lambda _: self.js(f"return Boolean({condition})"))

    def size(self, width: int, height: int = 900) -> None:
        """The viewport's size; narrower than a window may be, too."""
        view = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)

    def scheme(self, name: str) -> None:
        """Prefer light or dark."""
        feature = {"features": [{"name": "prefers-color-scheme", "value": name}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)

    def complaints(self) -> list[str]:
        """What the console was told at level warning or above since the last time."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def requests(self) -> list[str]:
        """Addresses of every request since the last time, `data:` ones left out."""
        events = (
            json.loads(entry["message"])["message"]
            for entry in self.driver.get_log("performance")  # type: ignore[no-untyped-call]
        )
        found = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in found if not url.startswith("data:")]


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    """The browser, started once a session; skips where it or its driver is not installed."""
    pytest.importorskip("selenium", reason="no selenium (pip install -e .[dev])")
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with chromedriver (Debian: chromium and chromium-driver)")
    options = Options()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        started = webdriver.Chrome(options, Service(driver))
    except WebDriverException as error:
        pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
    yield started
    started.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Browser:
    """A window of ordinary size in light colours."""
    window = Browser(chromium)
    window.size(1280)
    window.scheme("light")
    return window
