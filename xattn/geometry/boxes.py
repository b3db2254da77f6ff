"""Boxes in pixels, fractions or cells, and how much they cover of each other and of grid cells.

Every grid covers its whole picture: of an H×W grid on a picture of (height, width), cell (row, column)
is exactly the rectangle [column·width/W, (column+1)·width/W) × [row·height/H, (row+1)·height/H). Pixel
coordinates are continuous: pixel i covers [i, i+1), so its centre is at i + ½.

One box is a `Box`, in the unit of the size it comes with: pixels of a picture, or cells of a grid; on the
size (1, 1) its sides are fractions. Several are an array [n, 4] of x1, y1, x2, y2, as fractions.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Real

from xattn.types import Box, Size

Point = tuple[float, float]
"""(x, y), in the unit of the boxes it is compared with"""
Boxes = Real[np.ndarray, "n 4"]
"""x1, y1, x2, y2 as fractions of a picture's width and height"""

EDGE = 1e-9
"""Cell centres and box edges are rounded: a point this far outside still lies on the edge."""


def scale_box(box: Box, size: Size, to_size: Size) -> Box:
    """A box on a picture of `size`, on the same picture resized to `to_size`."""
    (height, width), (to_height, to_width) = size, to_size
    # Multiplied first: what ends at the old border then ends exactly at the new one.
    return Box(
        box.x1 * to_width / width,
        box.y1 * to_height / height,
        box.x2 * to_width / width,
        box.y2 * to_height / height,
    )


def cell_box(row: int, column: int, grid: Size, size: Size) -> Box:
    """The pixels that a cell of an (H, W) grid covers on a picture of `size`."""
    return scale_box(Box(column, row, column + 1, row + 1), grid, size)


def cell_at(point: Point, grid: Size, size: Size) -> tuple[int, int]:
    """(row, column) of the cell a point of the picture lies in; of the nearest, if it lies outside."""
    row, column = int(point[1] * grid[0] // size[0]), int(point[0] * grid[1] // size[1])
    return min(max(row, 0), grid[0] - 1), min(max(column, 0), grid[1] - 1)


def coverage(boxes: Boxes, grid: Size) -> Float[np.ndarray, "H W"]:
    """Share of each cell that lies inside the union of the boxes; exact.

    >>> coverage(np.array([[0, 0, .75, .5], [.5, 0, 1, .5]]), (1, 2)).tolist()
    [[0.5, 0.5]]
    """
    boxes = np.clip(np.asarray(boxes, float), 0, 1)
    height, width = grid
    row_edges, column_edges = np.linspace(0, 1, height + 1), np.linspace(0, 1, width + 1)
    # A finer grid, of all edges there are, has no cell that is inside in part.
    ys = np.unique(np.concatenate([row_edges, boxes[:, 1], boxes[:, 3]]))
    xs = np.unique(np.concatenate([column_edges, boxes[:, 0], boxes[:, 2]]))
    inside = np.zeros((len(ys) - 1, len(xs) - 1), bool)
    for x1, y1, x2, y2 in boxes:
        rows, columns = np.searchsorted(ys, (y1, y2)), np.searchsorted(xs, (x1, x2))
        inside[rows[0] : rows[1], columns[0] : columns[1]] = True
    areas = inside * np.outer(np.diff(ys), np.diff(xs))
    areas = np.add.reduceat(areas, np.searchsorted(ys, row_edges[:-1]), axis=0)
    areas = np.add.reduceat(areas, np.searchsorted(xs, column_edges[:-1]), axis=1)
    return areas * (height * width)


def area_share(boxes: Boxes) -> float:
    """Share of the picture inside the union of the boxes: what a random point, or a map without any
    preference, scores in the pointing game and in energy.

    >>> area_share(np.array([[0, 0, .5, 1], [.25, 0, .75, 1]]))
    0.75
    """
    return float(coverage(boxes, (1, 1))[0, 0])


def share_of_box(box: Real[np.ndarray, " 4"], boxes: Boxes) -> float:
    """Share of one box's area that lies in the union of others: the energy of a map that is that box.

    >>> share_of_box(np.array([.25, .25, .75, .75]), np.array([[0, 0, .5, 1]]))
    0.5
    """
    x1, y1, x2, y2 = (float(side) for side in box)
    if x2 <= x1 or y2 <= y1:
        return 0.0
    origin, size = np.array([x1, y1, x1, y1]), np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    return area_share((np.asarray(boxes, float) - origin) / size)


def box_iou(a: Boxes, b: Real[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every two boxes, in any one unit; 0 where neither has an area.

    >>> box_iou(np.array([[0, 0, 1, 1]]), np.array([[0, 0, .5, 1], [1, 0, 2, 1]])).tolist()
    [[0.5, 0.0]]
    """
    a, b = np.asarray(a, float).reshape(-1, 1, 4), np.asarray(b, float).reshape(1, -1, 4)
    overlap = np.prod(np.clip(np.minimum(a, b)[..., 2:] - np.maximum(a, b)[..., :2], 0, None), -1)
    area_a, area_b = (np.prod(np.clip(x[..., 2:] - x[..., :2], 0, None), -1) for x in (a, b))
    union = area_a + area_b - overlap
    result: Float[np.ndarray, "n m"] = np.divide(
        overlap, union, out=np.zeros_like(overlap), where=union > 0
    )
    return result


def union_box(boxes: Boxes) -> Float[np.ndarray, "1 4"]:
    """The smallest box around at least one box.

    >>> union_box(np.array([[0, .5, .25, 1], [.5, 0, .75, .5]])).tolist()
    [[0.0, 0.0, 0.75, 1.0]]
    """
    boxes = np.asarray(boxes, float)
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])[None]


def point_in_boxes(point: Point, boxes: Boxes, tolerance: float = 0.0) -> bool:
    """Whether (x, y) lies in any box, edges included, or misses one by at most `tolerance` along x and y.

    >>> right_part = np.array([[.6, 0, 1, 1]])
    >>> point_in_boxes((.5, .5), right_part), point_in_boxes((.5, .5), right_part, tolerance=.1)
    (False, True)
    """
    x, y = point
    x1, y1, x2, y2 = np.asarray(boxes, float).T
    slack = tolerance + EDGE
    return bool(((x1 - slack <= x) & (x <= x2 + slack) & (y1 - slack <= y) & (y <= y2 + slack)).any())
