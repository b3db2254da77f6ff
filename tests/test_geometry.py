"""Boxes on maps, and the way between cells and pixels. No grid and no picture here is square."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xattn import geometry
from xattn.geometry import (
    boxes_from_map,
    cell_at,
    cell_box,
    contains,
    iou,
    peak,
    resize_map,
    scale_box,
    weight_in_box,
)
from xattn.types import Box

GRID, SIZE = (5, 7), (140, 350)  # cells of 28 × 50 pixels

maps = hnp.arrays(
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


@given(maps, st.tuples(st.integers(1, 60), st.integers(1, 60)))
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


# --- cells and points -----------------------------------------------------------------------------------


def test_cell_box_by_hand() -> None:
    assert cell_box(1, 5, GRID, SIZE) == Box(x1=250, y1=28, x2=300, y2=56)


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), sizes)
def test_cells_tile_the_picture_without_gap(grid: tuple[int, int], size: tuple[int, int]) -> None:
    last = cell_box(grid[0] - 1, grid[1] - 1, grid, size)
    assert (last.x2, last.y2) == (size[1], size[0])
    for column in range(grid[1] - 1):
        assert cell_box(0, column, grid, size).x2 == cell_box(0, column + 1, grid, size).x1
    for row in range(grid[0] - 1):
        assert cell_box(row, 0, grid, size).y2 == cell_box(row + 1, 0, grid, size).y1


@pytest.mark.parametrize("row", range(GRID[0]))
@pytest.mark.parametrize("column", range(GRID[1]))
def test_cell_at_inverts_cell_box(row: int, column: int) -> None:
    box = cell_box(row, column, GRID, SIZE)
    for point in ((box.x1, box.y1), (box.x2 - 0.01, box.y2 - 0.01)):
        assert cell_at(point, GRID, SIZE) == (row, column)
        assert contains(box, point)
    assert not contains(box, (box.x2, box.y1))
    assert not contains(box, (box.x1, box.y2))
    assert not contains(box, (box.x1 - 0.01, box.y1))
    assert not contains(box, (box.x1, box.y1 - 0.01))


def test_cell_at_outside_is_the_nearest_cell() -> None:
    assert cell_at((350.0, 140.0), GRID, SIZE) == (4, 6)
    assert cell_at((-3.0, 1000.0), GRID, SIZE) == (4, 0)


def test_peak_is_the_centre_of_the_heaviest_cell() -> None:
    weights = hot((1, 5))
    assert peak(weights, SIZE) == (275, 42)
    enlarged = resize_map(weights, SIZE)
    y, x = np.argwhere(enlarged == enlarged.max()).mean(0) + 0.5
    assert (x, y) == peak(weights, SIZE)


def test_peak_of_equals_is_the_first() -> None:
    assert peak(hot((3, 1), (2, 6)), SIZE) == (325, 70)


# --- boxes ----------------------------------------------------------------------------------------------


def test_iou_by_hand() -> None:
    a = Box(0.0, 0.0, 10.0, 4.0)
    assert iou(a, a) == 1
    assert iou(a, Box(5.0, 2.0, 15.0, 6.0)) == pytest.approx(10 / 70)
    assert iou(a, Box(10.0, 0.0, 20.0, 4.0)) == 0
    assert iou(a, Box(20.0, 9.0, 30.0, 12.0)) == 0
    nothing = Box(3.0, 3.0, 3.0, 3.0)
    assert iou(nothing, nothing) == 0


def test_scale_box_keeps_height_and_width_apart() -> None:
    assert scale_box(Box(10, 20, 30, 40), (100, 200), (50, 400)) == Box(20, 10, 60, 20)


def test_weight_in_box_by_hand() -> None:
    weights = hot((1, 5), value=3.0)
    weights[3, 2] = 1.0
    assert weight_in_box(weights, SIZE, Box(0, 0, 350, 140)) == pytest.approx(1)
    assert weight_in_box(weights, SIZE, cell_box(1, 5, GRID, SIZE)) == pytest.approx(0.75)
    assert weight_in_box(weights, SIZE, Box(250, 28, 275, 56)) == pytest.approx(0.375)  # its left half
    assert weight_in_box(weights, SIZE, Box(250, 28, 300, 35)) == pytest.approx(0.1875)  # its upper quarter
    assert weight_in_box(weights, SIZE, Box(0, 0, 50, 28)) == 0
    assert weight_in_box(weights, SIZE, Box(-90, -90, 999, 999)) == pytest.approx(1)
    assert weight_in_box(hot(), SIZE, Box(0, 0, 350, 140)) == 0


@pytest.mark.parametrize("cell", [(0, 0), (1, 5), (4, 6), (2, 3), (4, 0)])
def test_one_hot_cell_gives_exactly_its_box(cell: tuple[int, int]) -> None:
    (found,) = boxes_from_map(hot(cell), SIZE)
    assert found.box == cell_box(*cell, GRID, SIZE)
    assert found.weight == pytest.approx(1)


def test_separate_areas_give_boxes_by_weight() -> None:
    weights = hot((0, 0)) + hot((2, 4), (2, 5), value=0.8) + hot((4, 1), value=0.4)
    strongest, second = boxes_from_map(weights, SIZE)  # 0.4 is under half of the maximum
    # Between 0.8 and 0 the map falls to half of the maximum ⅜ of a cell from the centre: ⅛ inside the cell.
    assert strongest.box == Box(206.25, 59.5, 293.75, 80.5)
    assert strongest.weight == pytest.approx(1.6 * 0.875 * 0.75 / 3)
    assert second.weight == pytest.approx(1 / 3)
    assert second.box == cell_box(0, 0, GRID, SIZE)


def test_light_boxes_are_dropped_but_never_the_strongest() -> None:
    weights = np.full((20, 30), 0.4, np.float32)
    weights[3, 4] = weights[15, 20] = 1.0
    assert weights[3, 4] / weights.sum() < geometry.MIN_BOX_WEIGHT
    (only,) = boxes_from_map(weights, (200, 600))
    assert contains(only.box, (90.0, 35.0)) or contains(only.box, (410.0, 155.0))


def test_maps_without_structure() -> None:
    (whole,) = boxes_from_map(np.full(GRID, 0.2, np.float32), (101, 333))
    assert whole.box == Box(0, 0, 333, 101)
    assert whole.weight == pytest.approx(1)
    assert boxes_from_map(np.ones((1, 1), np.float32), (3, 8))[0].box == Box(0, 0, 8, 3)
    assert boxes_from_map(hot(), SIZE) == ()
    assert boxes_from_map(np.full(GRID, np.nan, np.float32), SIZE) == ()
    assert boxes_from_map(hot((2, 2), value=-1.0), SIZE) == ()


@given(maps, sizes)
def test_boxes_lie_in_the_picture_ordered_and_finite(weights: np.ndarray, size: tuple[int, int]) -> None:
    boxes = boxes_from_map(weights, size)
    assert bool(boxes) == bool(weights.max() > 0)
    for box, weight in boxes:
        assert 0 <= box.x1 < box.x2 <= size[1]
        assert 0 <= box.y1 < box.y2 <= size[0]
        assert 0 <= weight <= 1
    assert [b.weight for b in boxes] == sorted((b.weight for b in boxes), reverse=True)


@given(maps, sizes)
def test_every_maximum_lies_in_a_box(weights: np.ndarray, size: tuple[int, int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "MIN_BOX_WEIGHT", 0.0)
        boxes = boxes_from_map(weights, size)
    for row, column in np.argwhere((weights == weights.max()) & (weights > 0)).tolist():
        cell = cell_box(row, column, weights.shape, size)
        centre = ((cell.x1 + cell.x2) / 2, (cell.y1 + cell.y2) / 2)
        assert any(contains(found.box, centre) for found in boxes)


def test_boxes_do_not_change_the_map() -> None:
    weights = hot((1, 5), value=0.3)
    before = weights.copy()
    boxes_from_map(weights, SIZE)
    np.testing.assert_array_equal(weights, before)
