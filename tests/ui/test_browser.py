"""The page as a person uses it, in headless Chromium.

Every test fails on an error of the page and on a request to another host. Most run on photos made of
colours and a model that sees colours; the last does the same with the shipped model and the sample photos.
"""

import io
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser import Browser, open_browser
from tests.color_model import COLORS, color_model, paint
from tests.pngs import claiming
from xattn import overlay
from xattn.service.samples import Samples
from xattn.service.search import Backend
from xattn.ui.server import running

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_MODEL = ROOT / "xattn" / "models" / "default" / "config.json"
GRID = (5, 7)
PATIENCE = 60
"""Seconds. Far more than needed, unless the machine is busy."""


class Person:
    """What a person does and sees on the page."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        browser.get(url)
        self.sees("#query input")

    def all(self, selector: str) -> list:
        return [e for e in self.browser.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()]

    def until(self, condition, what: str):
        return WebDriverWait(self.browser, PATIENCE, 0.05, [Exception]).until(lambda _: condition(), what)

    def sees(self, selector: str, text: str = ""):
        """The first visible element with this text, once there is one."""
        found = lambda: next((e for e in self.all(selector) if text in e.text), None)  # noqa: E731
        return self.until(found, f"{selector} with {text!r} does not appear")

    def is_ready(self) -> None:
        self.until(lambda: self.all("button.primary")[0].is_enabled(), "the button stays disabled")

    def searches(self, text: str) -> None:
        self.types("#query", text)

    def types(self, where: str, text: str) -> None:
        box = self.sees(f"{where} input")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text or Keys.BACKSPACE, Keys.ENTER)

    def opens_tab(self, name: str) -> None:
        self.sees("button[role=tab]", name).click()

    def picture(self, panel: str = "#search-view") -> np.ndarray:
        """The large view as it is shown, [height, width, 3]."""
        return fetched(self.source(panel))

    def source(self, panel: str = "#search-view") -> str:
        return self.sees(f"{panel} .xa-large img").get_attribute("src")

    def after(self, action, panel: str = "#search-view") -> np.ndarray:
        """The large view once the action has changed it."""
        before = self.source(panel)
        action()
        self.until(lambda: self.source(panel) != before, "the large view does not change")
        return self.picture(panel)

    def dismisses(self, text: str) -> None:
        """A message with this text, closed."""
        self.sees(".toast-body", text)
        self.sees(".toast-close").click()
        self.until(lambda: not self.all(".toast-body"), "the message stays")


def fetched(url: str) -> np.ndarray:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=PATIENCE) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB")).astype(int)


def at(picture: np.ndarray, row: float, column: float) -> np.ndarray:
    """Colour at the centre of a cell of a 5×7 grid."""
    height, width = picture.shape[:2]
    return picture[int((row + 0.5) / GRID[0] * height), int((column + 0.5) / GRID[1] * width)]


def near(color, expected, tolerance: int = 16) -> bool:
    return bool(np.abs(np.asarray(color) - expected).max() <= tolerance)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(autouse=True)
def _no_errors_and_no_strangers(browser) -> Iterator[None]:
    yield
    assert browser.problems() == []
    browser.read_traffic()
    assert browser.hosts == {"127.0.0.1"}


@pytest.fixture(scope="module")
def gate() -> threading.Event:
    """The first start indexes only when this is set."""
    return threading.Event()


@pytest.fixture(scope="module")
def url(tmp_path_factory, gate) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("samples")
    (folder / "photos").mkdir()
    paint(GRID, "blue", {(1, 4): "red"}).save(folder / "photos" / "red spot.png")
    for color in ("green", "yellow", "gray", "white", "brown"):
        paint((7, 5), color, {(6, 2): "blue"}).save(folder / "photos" / f"{color}.png")
    credit = {"title": "A <b>red</b> spot", "license": "CC BY 2.0", "license_url": "https://license.test/"}
    credit |= {"file": "red spot.png", "photo_page": "https://photo.test/"}
    (folder / "credits.json").write_text(json.dumps([credit]))
    (folder / "queries.json").write_text(
        json.dumps([{"query": "yellow and green"}, {"query": "a white wall"}])
    )
    model = color_model()
    encode = model.encode_frames

    def encode_when_open(frames):
        assert gate.wait(PATIENCE)
        return encode(frames)

    model.encode_frames = encode_when_open
    backend = Backend(None, model, Samples(folder, tmp_path_factory.mktemp("cache")))
    with running(backend, host="127.0.0.1", port=None) as url:
        yield url


@pytest.fixture
def person(browser, url, gate) -> Person:
    gate.set()
    person = Person(browser, url)
    person.is_ready()
    return person


def test_the_first_start_shows_its_progress(browser, url, gate):
    """First in this file: the other tests open the gate."""
    person = Person(browser, url)
    person.sees(".xa-status [role=progressbar]")
    assert not person.all("button.primary")[0].is_enabled()
    person.searches("red")
    person.dismisses("…")
    gate.set()
    person.is_ready()
    person.until(lambda: not person.all(".xa-status"), "the progress stays")
    person.sees(".xa-summary", "6 sample photos, model colors")


def test_a_search_shows_results_with_overlays_and_the_best_one_large(person):
    person.searches("a red spot on a blue wall")
    person.until(lambda: len(person.all("#results img")) == 6, "there are not six results")
    captions = [e.text for e in person.all("#results .caption-label")]
    assert [caption.split(" · ")[0] for caption in captions] == ["1", "2", "3", "4", "5", "6"]
    person.sees("#search-view .xa-heading", "Result 1")
    chips = person.all("#search-view .xa-legend li")
    assert [chip.text.split("\n")[0] for chip in chips] == ["a red spot", "a blue wall"]
    thumbnail = fetched(person.all("#results img")[0].get_attribute("src"))
    assert not near(at(thumbnail, 1, 4), COLORS["red"], 8)
    assert at(thumbnail, 1, 4)[0] > at(thumbnail, 4, 0)[0] + 60
    person.sees("#search-view .xa-credit", "A <b>red</b> spot")
    assert (
        person.sees("#search-view .xa-credit a", "CC BY 2.0").get_attribute("href")
        == "https://license.test/"
    )


def test_the_large_view_obeys_its_controls(person):
    person.searches("a red spot on a blue wall")
    slider = person.sees("#search-view input[type=range]")
    full = person.after(lambda: slider.send_keys(Keys.END))
    assert near(at(full, 4, 0), overlay.color_of(1))
    none = person.after(lambda: slider.send_keys(Keys.HOME))
    assert near(at(none, 4, 0), COLORS["blue"])
    person.after(lambda: slider.send_keys(Keys.END))
    alone = person.after(person.sees("#search-view .xa-choice label", "a red spot").click)
    assert near(at(alone, 1, 4), overlay.color_of(0))
    assert near(at(alone, 4, 0), COLORS["blue"])
    boxless = person.after(person.sees("#search-view label", "Boxes").click)
    assert np.abs(boxless - alone).max() > 60
    off = person.after(person.sees("#search-view label", "Colours").click)
    assert near(at(off, 1, 4), COLORS["red"])


def test_a_click_on_the_picture_tells_who_looks_there(person):
    person.searches("a red spot on a blue wall")
    image = person.sees("#search-view .xa-large img")
    assert "Click the picture" in person.sees("#search-view .xa-point").text

    def click_cell(row: float, column: float) -> None:
        # The picture is centred in its element, which may be wider.
        width = min(image.size["width"], image.size["height"] * GRID[1] / GRID[0])
        height = width * GRID[0] / GRID[1]
        x, y = (column + 0.5) / GRID[1] * width - width / 2, (row + 0.5) / GRID[0] * height - height / 2
        actions = ActionChains(person.browser)
        actions.move_to_element_with_offset(image, round(x), round(y)).click().perform()

    person.after(lambda: click_cell(1, 4))
    told = person.sees("#search-view .xa-point", "In the framed region").text
    assert "a red spot 100.0% of its attention" in " ".join(told.split())
    person.after(lambda: click_cell(4, 0))
    told = " ".join(person.sees("#search-view .xa-point", "a red spot").text.split())
    assert "a red spot 0.0% of its attention" in told


def test_another_result_opens_large(person):
    person.searches("a red spot on a blue wall")
    person.sees("#search-view .xa-heading", "red spot.png")
    person.after(lambda: person.all("#results button")[2].click())
    person.sees("#search-view .xa-heading", "Result 3")
    assert not person.all("#search-view .xa-credit")


def test_an_example_is_one_click(person):
    person.sees("#examples button", "a white wall").click()
    person.sees("#search-view .xa-heading", "white.png")
    assert person.sees("#query input").get_attribute("value") == "a white wall"


def test_nothing_found_and_nothing_asked(person):
    person.searches("something purple")
    person.sees(".xa-summary", "Probably nothing found")
    person.sees("#search-view .xa-absent", "not found here")
    person.searches("")
    person.dismisses("query is empty")
    person.searches("   ")
    person.dismisses("query is empty")


@pytest.mark.parametrize("text", ["<b>red</b> & ${1+1} {{x}}", "红色 🔴 red", "red " * 300])
def test_any_text_is_shown_as_typed(person, text):
    """In JavaScript: the driver cannot type all of it."""
    box = person.sees("#query input")
    person.browser.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", box, text
    )
    box.send_keys(Keys.ENTER)
    person.sees("#search-view .xa-heading", "Result 1")
    shown = person.sees(".xa-summary", "for “").text
    assert f"“{text.strip()}”" in shown
    assert not person.all(".toast-body")


def test_two_users_do_not_mix(person, url):
    person.searches("a red spot on a blue wall")
    person.sees("#search-view .xa-heading", "red spot.png")
    first = person.browser.current_window_handle
    person.browser.switch_to.new_window("tab")
    try:
        other = Person(person.browser, url)
        other.is_ready()
        other.searches("yellow")
        other.sees("#search-view .xa-heading", "yellow.png")
    finally:
        person.browser.close()
        person.browser.switch_to.window(first)
    person.after(person.sees("#search-view label", "Boxes").click)
    assert near(at(person.picture(), 1, 0), at(person.picture(), 4, 1))
    person.sees("#search-view .xa-heading", "red spot.png")
    person.after(lambda: person.all("#results button")[0].click())
    person.sees("#search-view .xa-heading", "red spot.png")


def test_finding_in_an_uploaded_picture(person, tmp_path):
    upload = tmp_path / "ünï 'quoted'.png"
    paint(GRID, "gray", {(3, 1): "green"}).save(upload)
    person.opens_tab("Find in one picture")
    person.types("#ground-query", "a green spot")
    person.dismisses("Choose a picture first")
    field = person.browser.find_element(By.CSS_SELECTOR, "#upload input[type=file]")
    field.send_keys(str(upload))
    person.sees("#upload img")
    person.sees("button.primary", "Find").click()
    person.sees("#ground-view .xa-legend", "a green spot")
    slider = person.sees("#ground-view input[type=range]")
    picture = person.after(lambda: slider.send_keys(Keys.END), "#ground-view")
    assert near(at(picture, 3, 1), overlay.color_of(0))
    assert near(at(picture, 0, 5), COLORS["gray"])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("fake.jpg", b"not a picture", "fake.jpg: it is not a picture"),
        ("huge.png", claiming(30_000, 30_000), "900,000,000"),
    ],
)
def test_an_unreadable_upload_is_refused_in_words(person, tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    person.opens_tab("Find in one picture")
    field = person.browser.find_element(By.CSS_SELECTOR, "#upload input[type=file]")
    field.send_keys(str(tmp_path / name))
    person.until(
        lambda: person.browser.find_elements(By.CSS_SELECTOR, "#upload img"), "the upload does not arrive"
    )
    person.types("#ground-query", "a green spot")
    person.dismisses(told)
    assert not person.all("#ground-view")


def test_a_phone_needs_no_sideways_scrolling(person):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    person.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        person.searches("a red spot on a blue wall and something purple")
        person.sees("#search-view .xa-heading", "Result 1")
        width = person.browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390
        view, results = person.sees("#search-view"), person.sees("#results")
        assert view.location["y"] < results.location["y"]
        last = person.all("#results button")[-1]
        person.browser.execute_script("arguments[0].scrollIntoView()", last)
        person.after(last.click)
        person.until(
            # To within a pixel: places are told in whole ones.
            lambda: person.browser.execute_script("return window.scrollY") <= view.location["y"] + 1,
            "the large view does not scroll into sight",
        )
    finally:
        person.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.skipif(not DEFAULT_MODEL.is_file(), reason="the default model is not there yet")
def test_the_shipped_model_on_the_sample_photos(browser):
    samples = Samples()
    query = "a pizza on a table"
    entries = json.loads((samples.folder / "queries.json").read_text())
    (right,) = [entry["relevant"] for entry in entries if entry["query"] == query]
    with running(Backend(None, "default", samples), host="127.0.0.1", port=None) as url:
        person = Person(browser, url)
        deadline = time.monotonic() + 300
        while not person.all("button.primary")[0].is_enabled() and time.monotonic() < deadline:
            assert not person.all(".xa-failed"), person.all(".xa-failed")[0].text
            time.sleep(0.2)
        person.searches(query)
        heading = person.sees("#search-view .xa-heading", "Result 1").text
        assert any(name in heading for name in right)
        person.until(lambda: len(person.all("#results img")) == 12, "twelve results do not appear")
        assert [e.text.split("\n")[0] for e in person.all(".xa-legend li")] == ["a pizza", "a table"]
        person.sees("#search-view .xa-credit a", "CC BY")
        slider = person.sees("#search-view input[type=range]")
        plain = person.after(lambda: slider.send_keys(Keys.HOME))
        full = person.after(lambda: slider.send_keys(Keys.END))
        assert np.abs(full - plain).mean() > 5
        person.opens_tab("Find in one picture")
        field = browser.find_element(By.CSS_SELECTOR, "#upload input[type=file]")
        field.send_keys(str(samples.photos / right[0]))
        person.sees("#upload img")
        person.types("#ground-query", "a pizza")
        person.sees("#ground-view .xa-legend", "a pizza")
