"""Boxes in pixels, fractions and cells. No grid and no picture here is square."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xattn.geometry import (
    area_share,
    box_iou,
    cell_at,
    cell_box,
    coverage,
    scale_box,
    share_of_box,
    union_box,
)
from xattn.types import Box

GRID, SIZE = (5, 7), (140, 350)  # cells of 28 × 50 pixels

sizes = st.tuples(st.integers(1, 500), st.integers(1, 500))
boxes = st.lists(
    st.tuples(*[st.integers(0, 12)] * 4).map(
        lambda b: (min(b[0], b[2]) / 12, min(b[1], b[3]) / 12, max(b[0], b[2]) / 12, max(b[1], b[3]) / 12)
    ),
    max_size=4,
)


@given(boxes, st.sampled_from([(3, 4), (1, 1), (4, 3), (2, 6)]))
def test_coverage_against_counting_pixels(
    corners: list[tuple[float, float, float, float]], grid: tuple[int, int]
) -> None:
    pixels = np.zeros((12, 12))
    for corner in corners:
        x1, y1, x2, y2 = (round(12 * side) for side in corner)
        pixels[y1:y2, x1:x2] = 1
    expected = pixels.reshape(grid[0], 12 // grid[0], grid[1], 12 // grid[1]).mean((1, 3))
    np.testing.assert_allclose(coverage(np.array(corners).reshape(-1, 4), grid), expected, atol=1e-12)


def test_boxes_that_reach_outside_count_with_what_is_inside() -> None:
    assert area_share(np.array([[-1, 0.5, 2, 3]])) == pytest.approx(0.5)


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


def test_cell_at_outside_is_the_nearest_cell() -> None:
    assert cell_at((350.0, 140.0), GRID, SIZE) == (4, 6)
    assert cell_at((-3.0, 1000.0), GRID, SIZE) == (4, 0)


def test_scale_box_keeps_height_and_width_apart() -> None:
    assert scale_box(Box(10, 20, 30, 40), (100, 200), (50, 400)) == Box(20, 10, 60, 20)


def test_share_of_box() -> None:
    assert share_of_box(np.array([0, 0, 1, 1]), np.array([[0.25, 0, 0.5, 1]])) == pytest.approx(0.25)
    assert share_of_box(np.array([0.5, 0.5, 1, 1]), np.array([[0, 0, 0.5, 1]])) == 0
    assert share_of_box(np.array([0.5, 0.5, 0.5, 1]), np.array([[0, 0, 1, 1]])) == 0  # no area


def test_iou_by_hand() -> None:
    a = np.array([[0, 0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.8]])
    b = np.array([[0.25, 0, 0.75, 0.5], [0, 0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.8], [0.9, 0.9, 1, 1]])
    np.testing.assert_allclose(box_iou(a, b), np.array([[1 / 3, 1, 0, 0], [0, 0, 0, 0]]))
    wide, tall = np.array([[0.0, 0, 10, 4]]), np.array([[5.0, 2, 15, 6]])
    assert box_iou(wide, tall)[0, 0] == pytest.approx(10 / 70)


@given(boxes.filter(len))
def test_the_union_box_holds_all_and_no_smaller_one_does(
    corners: list[tuple[float, float, float, float]],
) -> None:
    array = np.array(corners)
    (union,) = union_box(array)
    assert (union[:2] == array[:, :2].min(0)).all()
    assert (union[2:] == array[:, 2:].max(0)).all()
