"""What the page shows of a hit: its choices, the photo with its maps, and the words beside it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.color_model import COLORS, color_model, paint
from tests.ui_samples import GRID, renderer_fixture, samples_fixture  # noqa: F401  fixtures
from xattn import overlay
from xattn.errors import ImageError, QueryError
from xattn.service.samples import Credit
from xattn.service.search import Status
from xattn.types import Grounding, Phrase
from xattn.ui import snippets
from xattn.ui.render import LARGE_SIDE, MISSING, Renderer
from xattn.ui.view import ALL, WHOLE, Look, View

PLAIN = Look(opacity=0.0, boxes=False)
EVIL = "<script>alert(1)</script>\"'&"


def view_of(path: Path, texts: list[str]) -> View:
    with Image.open(path) as picture:
        size = (picture.height, picture.width)
        whole, *phrases = color_model().ground(picture.convert("RGB"), texts)
    return View(path, size, whole, tuple(phrases))


def drawn(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)).astype(int)


@pytest.fixture
def view(samples) -> View:
    return view_of(samples.photos / "a.png", ["a red spot in the blue", "a red spot", "the blue", "pink"])


# --- what is shown --------------------------------------------------------------------------------------


def test_choices_offer_every_phrase_and_the_whole(view):
    parts = [("a red spot", "0"), ("the blue", "1"), ("pink", "2")]
    assert view.choices() == [("All phrases", ALL), *parts, ("The whole text", WHOLE)]
    assert view.default_choice() == ALL


def test_a_view_without_parts_offers_no_choice(view):
    alone = replace(view, phrases=())
    assert alone.choices() == []
    assert alone.shown(None) == [(0, view.whole)]


def test_a_phrase_keeps_its_colour_when_shown_alone(view):
    assert view.shown("1") == [(1, view.phrases[1])]
    assert view.shown(WHOLE) == [(3, view.whole)]


@pytest.mark.parametrize("choice", [None, ALL, "7", "-1", "x", ""])
def test_an_unknown_choice_shows_all_phrases(view, choice):
    assert view.shown(choice) == list(enumerate(view.phrases))


# --- rendering ------------------------------------------------------------------------------------------


def test_without_colours_and_boxes_the_photo_is_untouched(view, renderer):
    file = renderer.large(view, PLAIN)
    picture = Image.open(view.path).convert("RGB")
    expected = picture.resize((LARGE_SIDE, round(LARGE_SIDE * 5 / 7)), Image.Resampling.BICUBIC)
    assert np.abs(drawn(file) - np.asarray(expected)).mean() < 3  # JPEG


def test_switching_the_colours_off_equals_no_opacity(view, renderer):
    off = renderer.large(view, Look(opacity=1.0, heat=False, boxes=False))
    assert (drawn(off) == drawn(renderer.large(view, PLAIN))).all()


def test_a_phrase_is_drawn_in_its_colour_where_it_was_found(view, renderer):
    """The planted cell: row 1, column 4 of 5×7."""
    file = renderer.large(view, Look("0", opacity=1.0, boxes=False))
    pixels, height, width = drawn(file), *renderer.large_size(view)
    at_spot = pixels[int(1.5 / 5 * height), int(4.5 / 7 * width)]
    assert np.abs(at_spot - overlay.color_of(0)).max() < 12
    elsewhere = pixels[int(4.5 / 5 * height), int(1.5 / 7 * width)]
    assert np.abs(elsewhere - COLORS["blue"]).max() < 12


def test_the_second_phrase_has_the_second_colour_also_alone(view, renderer):
    pixels = drawn(renderer.large(view, Look("1", opacity=1.0, boxes=False)))
    assert np.abs(pixels[-40, 40] - overlay.color_of(1)).max() < 12


def test_boxes_can_be_drawn_alone(view, renderer):
    plain = drawn(renderer.large(view, PLAIN))
    boxed = drawn(renderer.large(view, Look("0", heat=False)))
    changed = np.argwhere(np.abs(plain - boxed).max(-1) > 60)
    height, width = renderer.large_size(view)
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    assert left == pytest.approx(4 / 7 * width, abs=6)
    assert bottom == pytest.approx(2 / 5 * height, abs=6)
    assert right <= 5.7 / 7 * width  # the label may be wider than the box
    assert top >= 0.5 / 5 * height  # and above it


def test_the_region_asked_about_is_framed(view, renderer):
    asked = replace(view, region=(1, 4))
    changed = np.argwhere(
        np.abs(drawn(renderer.large(view, PLAIN)) - drawn(renderer.large(asked, PLAIN))).max(-1) > 60
    )
    height, width = renderer.large_size(view)
    assert changed.min(0) == pytest.approx((1 / 5 * height, 4 / 7 * width), abs=4)
    assert changed.max(0) == pytest.approx((2 / 5 * height, 5 / 7 * width), abs=4)


def test_a_rotated_photo_is_shown_upright(tmp_path, renderer):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90°
    path = tmp_path / "turned.jpg"
    paint(GRID, "blue").save(path, exif=exif)
    assert renderer.size_of(path) == (140, 100)


def test_a_vanished_file_leaves_its_map_on_grey(view, renderer):
    view.path.unlink()
    assert not renderer.is_readable(view)
    pixels = drawn(renderer.large(view, PLAIN))
    assert pixels.shape[:2] == renderer.large_size(view)
    assert np.abs(pixels - MISSING).max() < 3
    assert len(renderer.thumbnails([view])) == 1


def test_a_changed_file_is_not_shown_from_memory(view, renderer):
    before = drawn(renderer.large(view, PLAIN))
    paint(GRID, "white").save(view.path)
    assert drawn(renderer.large(view, PLAIN)).mean() > before.mean() + 50


def test_thumbnails_keep_their_order(samples, renderer):
    names = ["c.png", "a.png", "b.png"] * 3
    files = renderer.thumbnails([view_of(samples.photos / name, ["nothing"]) for name in names])
    for name, file in zip(names, files, strict=True):
        with Image.open(samples.photos / name) as photo:
            corner = photo.getpixel((photo.width - 3, 3))
        assert np.abs(drawn(file)[6, -6] - corner).max() < 12


def test_files_and_memory_are_bounded(view, tmp_path):
    small = Renderer(tmp_path / "small", max_files=3, max_cached_bytes=LARGE_SIDE * LARGE_SIDE * 3)
    files = [small.large(view, PLAIN) for _ in range(5)]
    assert sorted(small.folder.iterdir()) == sorted(files[2:])
    for number in range(4):
        path = tmp_path / f"{number}.png"
        paint(GRID, "red").save(path)
        small.large(replace(view, path=path), PLAIN)
    assert len(small._pictures) == 1


# --- words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.0, "0%"),
        (1e-6, "<1%"),
        (0.004, "<1%"),
        (0.006, "1%"),
        (0.5, "50%"),
        (0.9951, ">99%"),
        (1.0, "100%"),
    ],
)
def test_percent_never_rounds_to_certainty(share, shown):
    assert snippets.plain_percent(share) == shown
    assert snippets.percent(share) == shown.replace("<", "&lt;").replace(">", "&gt;")


def evil_view() -> View:
    phrase = Phrase(EVIL, 0, len(EVIL), "whole")
    weights = np.full((2, 3), 1 / 12, np.float32)
    part = Grounding(
        phrase, weights, 0.5, weights, {"null": 0.0, "pooled": 0.0, "hubness": 0.0, "bias": 0.0}, 0.5, 0.6
    )
    return View(Path(f"/photos/{EVIL.replace('/', '')}.jpg"), (20, 30), part, (part, part), 1, (1, 2))


def evil_snippets() -> list[str]:
    view = evil_view()
    credit = Credit(EVIL, EVIL, "https://x.test/" + EVIL, "javascript:alert(1)")
    return [
        snippets.legend(view),
        snippets.region(view, view.shown(None)),
        snippets.sums(view),
        snippets.summary(EVIL, [0.5], 3, 0.1, 0.1),
        snippets.summary(EVIL, [0.01], 3, 0.1, 0.1),
        snippets.welcome(3, EVIL, samples=True),
        snippets.status(Status("failed", EVIL)),
        snippets.status(Status("indexing", EVIL, 1, 2)),
        snippets.credit(credit),
        snippets.credits([credit]),
        snippets.error(ImageError(f"/tmp/{EVIL}", EVIL)),
        snippets.error(QueryError(EVIL)),
    ]


@pytest.mark.parametrize("html", evil_snippets())
def test_texts_of_users_are_escaped(html):
    assert "script" in html
    assert "<script" not in html
    assert "javascript:" not in html
    assert not re.search(r"=\"[^\"]*'[^\"]*\"", html), "an attribute holds a raw quote"


def test_the_legend_says_what_was_not_found(view):
    chips = re.findall(r"<li.*?</li>", snippets.legend(view))
    assert [("not found here" in chip) for chip in chips] == [False, False, True]
    assert "rgb(213,94,0)" in chips[0].replace(" ", "")


def test_the_sums_add_up(view):
    rows = re.findall(r"<tr>(.*?)</tr>", snippets.sums(view))[1:]
    assert len(rows) == 4  # three phrases and the whole text
    for row in rows:
        *addends, score = map(float, re.findall(r">([+-]?\d+\.\d\d)<", row))
        assert sum(addends) == pytest.approx(score, abs=0.03)
        assert len(addends) == 5


def test_a_region_tells_weight_and_contribution(view):
    asked = replace(view, region=(1, 4))
    rows = re.findall(r"<tr>(.*?)</tr>", snippets.region(asked, asked.shown(None)))
    assert "100.0% of its attention, 35.0× the average" in rows[0]
    added = view.phrases[0].contributions[1, 4]
    assert added > 1
    assert f"{added:+.2f} to its score" in rows[0]
    assert "0.0% of its attention" in rows[1]
    assert snippets.region(view, view.shown(None)) == snippets.POINT_HINT


def test_a_poor_best_match_is_called_nothing():
    assert "Probably nothing" in snippets.summary("x", [0.2, 0.01], 9, 0.01, 0.3)
    assert "Probably nothing" not in snippets.summary("x", [0.2, 0.01], 9, 0.01, 0.1)
    assert "no pictures yet" in snippets.summary("x", [], 0, 0.01, 0.1)
