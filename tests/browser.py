"""A headless Chromium that reports what a page did wrong, and whom it asked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from selenium import webdriver

CHROMIUM = shutil.which("chromium")
CHROMEDRIVER = shutil.which("chromedriver")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


class Browser(webdriver.Chrome):
    """`problems` is emptied by reading it; `hosts` is all that was asked since the start."""

    hosts: set[str]

    def problems(self) -> list[str]:
        """Errors of the page: thrown in scripts, written to the console, requests that failed."""
        entries = self.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def read_traffic(self) -> None:
        for entry in self.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                params = message["params"]
                url = urlsplit(params["request"]["url"] if "request" in params else params["url"])
                if url.scheme not in ("data", "blob", "chrome"):
                    self.hosts.add(url.hostname or url.scheme)


@contextmanager
def open_browser(profile: Path, size: tuple[int, int] = (1280, 800)) -> Iterator[Browser]:
    """profile: an empty folder; size: (width, height) of the window."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # selenium asks its driver through a proxy where one is set, also on this machine.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))
    browser = Browser(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    browser.hosts = set()
    try:
        yield browser
    finally:
        browser.quit()
