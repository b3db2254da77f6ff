"""Starts the app as the README does and uses it as a person would: type, search, look.

    check_app.py CHECKOUT COMMAND

Needs selenium, Chromium and its driver; the app itself must not.
"""

import shlex
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

QUERY = "a pizza on a table"
START_SECONDS = 120
READY_SECONDS = 300
ANSWER_SECONDS = 60


def main(checkout: Path, command: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = subprocess.Popen([*shlex.split(command), "--port", str(port)], cwd=checkout)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for_page(app, url)
        use(checkout, url)
    finally:
        app.terminate()
        app.wait(timeout=30)


def wait_for_page(app: subprocess.Popen[bytes], url: str) -> None:
    straight = build_opener(ProxyHandler({}))
    end = time.monotonic() + START_SECONDS
    while True:
        if app.poll() is not None:
            raise SystemExit(f"the app ended with status {app.returncode}")
        try:
            straight.open(url, timeout=5).close()
            return
        except URLError as error:
            if time.monotonic() > end:
                raise SystemExit(f"no page after {START_SECONDS} s: {error}") from error
        time.sleep(0.5)


def use(checkout: Path, url: str) -> None:
    sys.path.insert(0, str(checkout))
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    from tests.browser import open_browser

    with tempfile.TemporaryDirectory() as profile, open_browser(Path(profile)) as browser:
        browser.get(url)
        # The first of the primary buttons is Search; it can be pressed once the sample photos are indexed.
        WebDriverWait(browser, READY_SECONDS).until(
            lambda b: b.find_element(By.CSS_SELECTOR, "button.primary").is_enabled()
        )
        query = browser.find_element(By.CSS_SELECTOR, "#query textarea, #query input")
        query.send_keys(QUERY, Keys.ENTER)
        loaded = (
            "return [...document.querySelectorAll('#results img')].filter(i => i.naturalWidth > 1).length"
        )
        WebDriverWait(browser, ANSWER_SECONDS).until(lambda b: b.execute_script(loaded) >= 12)
        browser.read_traffic()
        problems, strangers = browser.problems(), browser.hosts - {"127.0.0.1"}
        if problems or strangers:
            raise SystemExit(f"problems: {problems}; asked other hosts: {strangers}")
        print(f"{url} answered {QUERY!r} with {browser.execute_script(loaded)} results")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
