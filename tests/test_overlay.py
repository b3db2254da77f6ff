"""Maps land where they belong, in the right colour and strength. No grid and no picture here is square."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xattn.geometry import boxes_from_map, cell_box
from xattn.overlay import FAINT, PALETTE, color_of, heat, render, strength
from xattn.types import Box, Grounding, Phrase, ScoredBox, Size

GRID, SIZE = (5, 7), (140, 350)  # cells of 28 × 50 pixels
GREY = (128, 128, 128)


def photo(size: Size = SIZE) -> Image.Image:
    return Image.new("RGB", (size[1], size[0]), GREY)


def grounding(
    weights: np.ndarray, text: str = "a cat", null_weight: float = 0.1, size: Size = SIZE
) -> Grounding:
    weights = (weights / weights.sum() * (1 - null_weight)).astype(np.float32)
    return Grounding(
        phrase=Phrase(text, 0, len(text), "noun"),
        weights=weights,
        null_weight=null_weight,
        contributions=weights,
        rest={"null": 0.0, "pooled": 0.0, "hubness": 0.0, "bias": 0.0},
        score=0.0,
        probability=0.5,
        boxes=boxes_from_map(weights, size),
    )


def hot(row: int, column: int, grid: Size = GRID) -> np.ndarray:
    weights = np.zeros(grid, np.float32)
    weights[row, column] = 1.0
    return weights


def change(before: Image.Image, after: Image.Image) -> np.ndarray:
    """float [h, w]: how far each pixel moved, summed over the colours."""
    moved: np.ndarray = np.abs(np.asarray(after, float) - np.asarray(before, float)).sum(-1)
    return moved


def centroid(change: np.ndarray) -> tuple[float, float]:
    y, x = np.mgrid[: change.shape[0], : change.shape[1]] + 0.5
    return (x * change).sum() / change.sum(), (y * change).sum() / change.sum()


# --- tints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "column"), [(1, 5), (3, 1), (2, 2)])
def test_planted_hot_cell_lands_at_its_place(row: int, column: int) -> None:
    rendered = render(photo(), [grounding(hot(row, column))], boxes=False)
    x, y = centroid(change(photo(), rendered))
    assert x == pytest.approx(50 * column + 25, abs=0.5)
    assert y == pytest.approx(28 * row + 14, abs=0.5)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (4, 6), (0, 6), (4, 0)])
def test_hot_cell_in_a_corner_is_strongest_in_that_corner(row: int, column: int) -> None:
    moved = change(photo(), heat(photo(), hot(row, column)))
    assert moved[-1 if row else 0, -1 if column else 0] == moved.max() > 0
    assert (moved > moved.max() / 2).sum() == pytest.approx(28 * 50, rel=0.25)


def test_tint_mixes_photo_and_colour_by_alpha() -> None:
    rendered = heat(photo(), np.ones(GRID, np.float32), opacity=0.25, color=(255, 0, 128))
    assert rendered.getcolors() == [(140 * 350, (160, 96, 128))]  # ¾ · 128 + ¼ · colour, rounded


def test_photo_shows_where_the_map_is_low() -> None:
    weights = np.full(GRID, 0.1, np.float32)
    weights[2, 3] = 1.0
    moved = change(photo(), heat(photo(), weights, opacity=1.0))
    assert moved[0, 0] == pytest.approx(0.1 * moved.max(), rel=0.1)
    assert (change(photo(), heat(photo(), hot(2, 3)))[:28] == 0).all()


def test_each_phrase_has_its_colour_and_its_own_scale() -> None:
    left, right = hot(2, 1) * 9, hot(2, 5)
    rendered = render(photo(), [grounding(left), grounding(right)], boxes=False, opacity=1.0)
    assert rendered.getpixel((75, 70)) == pytest.approx(PALETTE[0], abs=4)
    assert rendered.getpixel((275, 70)) == pytest.approx(PALETTE[1], abs=4)


def test_overlapping_tints_mix_whatever_their_order() -> None:
    one, other = grounding(hot(2, 3)), grounding(hot(2, 3) + hot(0, 0))
    first, second = PALETTE[:2]
    there = render(photo(), [one, other], boxes=False, opacity=1.0, colors=(first, second))
    back = render(photo(), [other, one], boxes=False, opacity=1.0, colors=(second, first))
    assert change(there, back).max() <= 1 * 3
    both = np.mean([first, second], axis=0)
    assert there.getpixel((175, 70)) == pytest.approx(both, abs=6)


def test_colours_repeat_after_the_last() -> None:
    assert len(set(PALETTE)) == len(PALETTE) >= 5
    assert color_of(len(PALETTE) + 2) == PALETTE[2]
    many = [grounding(hot(2, 3)) for _ in range(len(PALETTE) + 2)]
    assert render(photo(), many).size == (350, 140)


# --- strength -------------------------------------------------------------------------------------------


def test_strength_by_hand() -> None:
    found = grounding(hot(2, 3))
    nulls = [replace(found, null_weight=null) for null in (0.0, 0.5, 0.75, 1.0)]
    assert [strength(g) for g in nulls] == [1.0, 1.0, 0.5, 0.0]
    assert [strength(replace(g, found=False)) for g in nulls] == [FAINT, FAINT, FAINT, 0.0]


def test_what_was_not_found_has_neither_box_nor_label() -> None:
    absent = replace(grounding(hot(2, 3)), found=False)
    assert change(photo(), render(photo(), [absent], opacity=0.0)).max() == 0
    assert change(photo(), render(photo(), [absent], boxes=False)).max() > 0, "a trace of the map is left"
    other = grounding(hot(0, 1), text="a dog")
    both, alone = (render(photo(), [other, *more], opacity=0.0) for more in ([absent], []))
    assert change(both, alone).max() == 0


def test_phrase_that_attends_to_null_is_faint() -> None:
    found, absent = grounding(hot(2, 3), null_weight=0.2), grounding(hot(2, 3), null_weight=0.95)
    for boxes in (False, True):
        strong = change(photo(), render(photo(), [found], boxes=boxes))
        faint = change(photo(), render(photo(), [absent], boxes=boxes))
        assert 0 < faint.sum() < 0.2 * strong.sum()
        assert faint.max() < 0.25 * strong.max()


def test_nothing_is_drawn_where_nothing_was_found() -> None:
    nowhere = grounding(hot(2, 3), null_weight=0.5)
    nowhere = replace(nowhere, null_weight=1.0)
    assert change(photo(), render(photo(), [nowhere])).max() == 0
    for value in (0.0, np.nan, -1.0):
        assert change(photo(), heat(photo(), np.full(GRID, value, np.float32))).max() == 0
    assert change(photo(), render(photo(), [])).max() == 0
    assert change(photo(), render(photo(), [grounding(hot(2, 3))], opacity=0.0, boxes=False)).max() == 0


# --- boxes and labels -----------------------------------------------------------------------------------


def test_box_is_drawn_around_its_cell() -> None:
    found = grounding(hot(3, 5), text="")
    moved = change(photo(), render(photo(), [found], opacity=0.0))
    x1, y1, x2, y2 = cell_box(3, 5, GRID, SIZE)
    rows, columns = np.nonzero(moved)
    assert (columns.min(), columns.max()) == pytest.approx((x1, x2 - 1), abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((y1, y2 - 1), abs=1)
    assert (moved[90:108, 260:290] == 0).all()


def test_boxes_of_the_original_are_scaled_to_the_picture() -> None:
    original = (1400, 1750)  # ten times as high, five times as wide: an error of axes shows
    found = grounding(hot(1, 5), text="", size=original)
    moved = change(photo(), render(photo(), [found], size=original, opacity=0.0))
    x, y = centroid(moved)
    assert (x, y) == pytest.approx((275, 42), abs=0.5)


def test_box_reaching_beyond_the_picture_is_cut() -> None:
    everything = replace(
        grounding(hot(1, 5), text=""), boxes=(ScoredBox(Box(-50.0, -50.0, 900.0, 900.0), 1.0),)
    )
    moved = change(photo(), render(photo(), [everything], opacity=0.0))
    for border in (moved[0], moved[-1], moved[:, 0], moved[:, -1]):
        assert (border > 0).all()


def test_label_says_which_phrase_in_its_colour() -> None:
    silent = render(photo(), [grounding(hot(3, 5), text="")], opacity=0.0)
    labelled = render(photo(), [grounding(hot(3, 5), text="a cat")], opacity=0.0)
    rows, columns = np.nonzero(change(silent, labelled))
    assert 250 - 2 <= columns.min() < columns.max() < 300  # starts at the box
    assert 60 < rows.min() < rows.max() <= 84 + 1  # just above it
    colors = [pixel for _, pixel in sorted(labelled.crop((251, 70, 290, 83)).getcolors(4096) or [])]
    assert colors[-1] == PALETTE[0]


def test_labels_of_phrases_at_one_place_do_not_cover_each_other() -> None:
    texts = ["a cat", "a grey cat", "an animal"]
    wide = [grounding(hot(2, 3), text=text) for text in texts]
    rendered = render(photo(), wide, opacity=0.0)
    seen = {pixel: count for count, pixel in rendered.getcolors(1 << 16) or []}
    for index in range(3):
        alone = render(
            photo(),
            [replace(g, boxes=g.boxes if i == index else ()) for i, g in enumerate(wide)],
            opacity=0.0,
        )
        expected = {pixel: count for count, pixel in alone.getcolors(1 << 16) or []}
        assert seen[PALETTE[index]] > 0.6 * expected[PALETTE[index]]


def test_long_label_is_cut_to_the_picture() -> None:
    rendered = render(photo(), [grounding(hot(2, 6), text="a very " * 500 + "long cat")])
    assert rendered.size == (350, 140)


@settings(max_examples=40)
@given(
    st.text(max_size=200)
    | st.sampled_from(["猫", "кот", "قطة", "🐈", "a\nb\tc", "\ud800", "\x00", "é" * 300]),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 80),
)
def test_any_text_size_and_grid_renders(text: str, size: Size, grid: Size, place: int) -> None:
    row, column = divmod(place % (grid[0] * grid[1]), grid[1])
    found = [grounding(hot(row, column, grid), text=text, size=size) for _ in range(2)]
    assert render(photo(size), found).size == (size[1], size[0])


# --- contract -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P"])
def test_input_is_not_changed_and_output_is_rgb(mode: str) -> None:
    picture = photo().convert(mode)
    before = picture.copy()
    found = grounding(hot(2, 3))
    weights = found.weights.copy()
    for rendered in (render(picture, [found]), render(picture, []), heat(picture, found.weights)):
        assert rendered.mode == "RGB"
        assert rendered is not picture
        rendered.putpixel((0, 0), (1, 2, 3))
        assert picture.mode == mode
        assert picture.tobytes() == before.tobytes()
    np.testing.assert_array_equal(found.weights, weights)


@pytest.mark.parametrize("opacity", [-0.1, 1.5])
def test_opacity_out_of_range_is_refused(opacity: float) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 1, got {opacity}"):
        render(photo(), [grounding(hot(2, 3))], opacity=opacity)
