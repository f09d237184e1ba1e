"""A real browser over a page: what it shows, says and asks for."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 60.0  # on cores that others use too
_OURS = ("http://127.0.0.1:", "ws://127.0.0.1:", "file:", "blob:", "data:", "about:")
# The software renderer's and a library's remarks on themselves.
_KNOWN = ("GPU stall due to ReadPixels", "THREE.Clock", "GroupMarkerNotSet", "Automatic fallback to software WebGL")


class Browser:
    """Chromium without a screen."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str, width: int = 1280, height: int = 800) -> None:
        """A page at a size, which Chromium's own window cannot be as narrow as."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        # The page before it may have lost its server, and says so until it is gone.
        self.driver.get("about:blank")
        self.asked_outside()
        self.complaints()
        self.driver.get(address)

    def picture(self) -> np.ndarray:
        """(H, W, 3) what is seen."""
        return np.asarray(Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")).astype(int)

    def count(self, colour: tuple[int, int, int]) -> int:
        """Pixels about of this colour."""
        return int((np.abs(self.picture() - colour).max(axis=2) < 40).sum())

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for it. Fails naming it."""
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end, f"{what}: not within {PATIENCE_S:.0f} s; {self.text()[:400]!r}"
            time.sleep(0.1)

    def text(self) -> str:
        """Every word on the page; none while it is not built yet."""
        return self.driver.execute_script("return document.body ? document.body.innerText : ''")

    def box(self, label: str) -> WebElement:
        """The check box with a label."""
        script = (
            "return [...document.querySelectorAll('label')].filter(l => l.innerText === arguments[0])"
            ".map(l => document.getElementById(l.htmlFor)).filter(i => i)[0]"
        )
        return self.driver.execute_script(script, label)

    def click(self, element: WebElement) -> None:
        """Click something that others may cover or that lies below the panel's edge."""
        self.driver.execute_script("arguments[0].click()", element)

    def enter(self, element: WebElement, text: str) -> None:
        """Replace what stands in a field."""
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        for _ in range(20):
            element.send_keys(Keys.CONTROL, "a")
            element.send_keys(text)
            # A page that plays writes its own into the field between two keys.
            if element.get_attribute("value") == text:
                break
        element.send_keys(Keys.TAB)

    def asked_outside(self) -> list[str]:
        """Addresses that were asked for since the last call and are neither this machine's nor the page's own."""
        found = []
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            request = event["params"].get("request", event["params"])
            if event["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                found.append(request["url"])
        return [url for url in found if not url.startswith((*_OURS, "chrome:", "chrome-search:", "devtools:"))]

    def complaints(self) -> list[str]:
        """Warnings and errors of the console since the last call."""
        logged = [entry for entry in self.driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
        return [entry["message"] for entry in logged if not any(known in entry["message"] for known in _KNOWN)]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A fresh browser; skips where there is none on this machine."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no browser: install chromium and chromium-driver (nox -s tests does, as root on Debian)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "use-angle=swiftshader", "enable-unsafe-swiftshader"),
        *("disable-dev-shm-usage", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "disable-default-apps", "disable-extensions"),
        *("window-size=1280,800", f"user-data-dir={profile}"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(made)
    finally:
        made.quit()
