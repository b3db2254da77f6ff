"""Maps enlarged, and the boxes of their areas. No grid and no picture here is square."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xattn.geometry import area_share, boxes_from_map, cell_box, maps, resize_map, weight_in_boxes
from xattn.types import Box

GRID, SIZE = (5, 7), (140, 350)  # cells of 28 × 50 pixels

grids_of_weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.floats(0, 1, width=32),
)
sizes = st.tuples(st.integers(1, 500), st.integers(1, 500))


def hot(*cells: tuple[int, int], value: float = 1.0) -> np.ndarray:
    weights = np.zeros(GRID, np.float32)
    for cell in cells:
        weights[cell] = value
    return weights


# --- resize_map -----------------------------------------------------------------------------------------


@given(grids_of_weights, st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_resize_map_equals_bilinear_interpolation_of_torch(
    weights: np.ndarray, size: tuple[int, int]
) -> None:
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(weights)[None, None], size=size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    np.testing.assert_allclose(resize_map(weights, size), expected, atol=1e-5)


def test_resize_map_takes_a_stack_and_returns_float32() -> None:
    stack = np.stack([hot((0, 1)), hot((4, 6))]).astype(np.float64)
    resized = resize_map(stack, SIZE)
    assert resized.shape == (2, *SIZE)
    assert resized.dtype == np.float32
    np.testing.assert_array_equal(resized[1], resize_map(stack[1], SIZE))


# --- weight inside boxes --------------------------------------------------------------------------------


def test_weight_in_boxes() -> None:
    weights = np.array([[0.1, 0.2, 0.0], [0.0, 0.3, 0.2]])
    # The left cell of the top row and half of the middle one; the map sums to .8, the rest is null's.
    assert weight_in_boxes(weights, np.array([[0, 0, 0.5, 0.5]])) == pytest.approx(0.2 / 0.8)
    # Overlapping boxes are not counted twice.
    assert weight_in_boxes(weights, np.array([[0, 0, 1, 1], [0, 0, 1, 0.5]])) == pytest.approx(1)
    assert weight_in_boxes(np.zeros((2, 3)), np.array([[0, 0, 1, 1]])) == 0
    uniform = np.full((7, 3), 0.02)
    box = np.array([[0.123, 0.2, 0.77, 0.9]])
    assert weight_in_boxes(uniform, box) == pytest.approx(area_share(box))


# --- boxes of areas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [(0, 0), (1, 5), (4, 6), (2, 3), (4, 0)])
def test_one_hot_cell_gives_exactly_its_box(cell: tuple[int, int]) -> None:
    (found,) = boxes_from_map(hot(cell), SIZE)
    assert found.box == cell_box(*cell, GRID, SIZE)
    assert found.weight == pytest.approx(1)


def test_separate_areas_give_boxes_by_weight() -> None:
    """The heavier area comes first, even where the other one has the hottest cell."""
    weights = hot((0, 0)) + hot((2, 4), (2, 5), value=0.8)
    strongest, second = boxes_from_map(weights, SIZE)
    assert strongest.box == Box(200, 56, 300, 84)
    assert strongest.weight == pytest.approx(1.6 / 2.6)
    assert second.box == cell_box(0, 0, GRID, SIZE)
    assert second.weight == pytest.approx(1 / 2.6)


def test_areas_that_touch_by_a_corner_are_separate() -> None:
    first, second = boxes_from_map(hot((1, 2), value=2.0) + hot((2, 3)), SIZE)
    assert first.box == cell_box(1, 2, GRID, SIZE)
    assert second.box == cell_box(2, 3, GRID, SIZE)


def test_background_is_outside_the_box() -> None:
    """A faint weight everywhere, under 5 % of the whole, changes nothing."""
    weights = np.full(GRID, 0.01, np.float32)
    weights[1:4, 2:5] = 1.0
    (only,) = boxes_from_map(weights, SIZE)
    assert only.box == Box(100, 28, 250, 112)


def test_faint_edges_of_an_area_are_cut_off() -> None:
    """Worked by hand: six cells of 1 in a row, one cell of 0.05 beside them.

    With it the rectangle scores 6.05 / 7**0.2 = 4.100, without it 6 / 6**0.2 = 4.193.
    """
    weights = hot(*((2, x) for x in range(6))) + hot((2, 6), value=0.35)
    assert maps.AREA_EXPONENT == 0.2
    assert 6.35 / 7**0.2 > 6 / 6**0.2
    assert boxes_from_map(weights, SIZE)[0].box == Box(0, 56, 350, 84)
    weights[2, 6] = 0.05
    (only,) = boxes_from_map(weights, SIZE)
    assert only.box == Box(0, 56, 300, 84)
    assert only.weight == pytest.approx(6 / 6.05)


def test_light_areas_are_dropped_but_never_the_heaviest() -> None:
    weights = np.zeros((20, 30), np.float32)
    weights[::2, ::2] = 0.5  # 150 areas of less than a hundredth each
    weights[4, 6] = 1.0
    (only,) = boxes_from_map(weights, (200, 600))
    assert only.box == cell_box(4, 6, (20, 30), (200, 600))
    assert only.weight < maps.MIN_BOX_WEIGHT


def test_maps_without_structure() -> None:
    (whole,) = boxes_from_map(np.full(GRID, 0.2, np.float32), (101, 333))
    assert whole.box == Box(0, 0, 333, 101)
    assert whole.weight == pytest.approx(1)
    assert boxes_from_map(np.ones((1, 1), np.float32), (3, 8))[0].box == Box(0, 0, 8, 3)
    assert boxes_from_map(hot(), SIZE) == ()
    assert boxes_from_map(np.full(GRID, np.nan, np.float32), SIZE) == ()
    assert boxes_from_map(hot((2, 2), value=-1.0), SIZE) == ()


@given(grids_of_weights, sizes)
def test_boxes_lie_in_the_picture_ordered_and_finite(weights: np.ndarray, size: tuple[int, int]) -> None:
    boxes = boxes_from_map(weights, size)
    assert bool(boxes) == bool(weights.max() > 0)
    for box, weight in boxes:
        assert 0 <= box.x1 < box.x2 <= size[1]
        assert 0 <= box.y1 < box.y2 <= size[0]
        assert 0 <= weight <= 1
    assert [b.weight for b in boxes] == sorted((b.weight for b in boxes), reverse=True)


@given(grids_of_weights)
def test_a_box_holds_at_least_the_weight_it_tells(weights: np.ndarray) -> None:
    for box, weight in boxes_from_map(weights, (1, 1)):
        assert weight_in_boxes(weights.astype(float), np.array([box])) >= weight - 1e-6


@given(grids_of_weights, st.integers(-4, 4))
def test_boxes_do_not_depend_on_the_scale_of_the_weights(weights: np.ndarray, power: int) -> None:
    weights = np.where(weights < 1e-6, np.float32(0), weights)  # scaling stays exact
    assert boxes_from_map(weights * np.float32(2.0**power), SIZE) == boxes_from_map(weights, SIZE)


def test_boxes_do_not_change_the_map() -> None:
    weights = hot((1, 5), value=0.3)
    before = weights.copy()
    boxes_from_map(weights, SIZE)
    np.testing.assert_array_equal(weights, before)
