"""How well a map or its boxes hit the boxes that people drew."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Real

from xattn.types import Size


def coverage(boxes: Real[np.ndarray, "n 4"], grid: Size) -> Float[np.ndarray, "H W"]:
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


def area_share(boxes: Real[np.ndarray, "n 4"]) -> float:
    """Share of the picture inside the union of the boxes: what a random point, or a map without any
    preference, scores in the pointing game and in energy.

    >>> area_share(np.array([[0, 0, .5, 1], [.25, 0, .75, 1]]))
    0.75
    """
    return float(coverage(boxes, (1, 1))[0, 0])


def point_in_boxes(
    point: tuple[float, float], boxes: Real[np.ndarray, "n 4"], tolerance: float = 0.0
) -> bool:
    """Whether (x, y) lies in any box, edges included, or misses one by at most `tolerance` along x and y.

    >>> right_part = np.array([[.6, 0, 1, 1]])
    >>> point_in_boxes((.5, .5), right_part), point_in_boxes((.5, .5), right_part, tolerance=.1)
    (False, True)
    """
    x, y = point
    x1, y1, x2, y2 = np.asarray(boxes, float).T
    slack = tolerance + 1e-9  # cell centres and box edges are rounded: a point on an edge is inside
    return bool(((x1 - slack <= x) & (x <= x2 + slack) & (y1 - slack <= y) & (y <= y2 + slack)).any())


def pointing_game(
    weights: Float[np.ndarray, "H W"], boxes: Real[np.ndarray, "n 4"], tolerance: float = 0.0
) -> float:
    """1 if the centre of the map's hottest cell lies in any of the boxes, else 0 (Zhang et al. 2016,
    Top-down neural attention by excitation backprop).

    tolerance: how far outside still counts, as a fraction of the picture's sides; 0 is strict. The
    original allows 15 pixels. Where several cells are exactly as hot, the share of them that hit: a
    constant map scores what a random cell would.

    >>> weights, left, middle = np.array([[.1, .7, .2]]), [[0, 0, .4, 1]], [[.4, 0, .6, 1]]
    >>> pointing_game(weights, np.array(left)), pointing_game(weights, np.array(middle))
    (0.0, 1.0)
    >>> pointing_game(np.array([[.5, .5]]), np.array([[0, 0, .5, 1]]))
    0.5
    """
    height, width = weights.shape
    rows, columns = np.nonzero(weights == weights.max())
    hits = [
        point_in_boxes(((column + 0.5) / width, (row + 0.5) / height), boxes, tolerance)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return sum(hits) / len(hits)


def energy_in_box(weights: Float[np.ndarray, "H W"], boxes: Real[np.ndarray, "n 4"]) -> float:
    """Share of the map's weight inside the union of the boxes (Wang et al. 2020, Score-CAM, section 4.3).

    weights: not negative; what went to null is left out. A map without weight scores 0.

    >>> energy_in_box(np.array([[.25, .75]]), np.array([[.5, 0, 1, .5]]))
    0.375
    """
    total = float(weights.sum())
    if total <= 0:
        return 0.0
    return float((weights * coverage(boxes, (weights.shape[0], weights.shape[1]))).sum() / total)


def share_of_box(box: Real[np.ndarray, " 4"], boxes: Real[np.ndarray, "n 4"]) -> float:
    """Share of one box's area that lies in the union of others: the energy of a map that is that box.

    >>> share_of_box(np.array([.25, .25, .75, .75]), np.array([[0, 0, .5, 1]]))
    0.5
    """
    x1, y1, x2, y2 = (float(side) for side in box)
    if x2 <= x1 or y2 <= y1:
        return 0.0
    origin, size = np.array([x1, y1, x1, y1]), np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    return area_share((np.asarray(boxes, float) - origin) / size)


def box_iou(a: Real[np.ndarray, "n 4"], b: Real[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every two boxes; 0 where neither has an area.

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


def box_accuracy(
    predicted: Real[np.ndarray, "n 4"], boxes: Real[np.ndarray, "m 4"], threshold: float = 0.5
) -> float:
    """1 if the first (strongest) predicted box overlaps any right one by IoU >= threshold, else 0.

    >>> right, nothing = np.array([[0, 0, .5, .5], [.5, .5, 1, 1]]), np.empty((0, 4))
    >>> box_accuracy(np.array([[.5, .5, 1, .9], [0, 0, 1, 1]]), right), box_accuracy(nothing, right)
    (1.0, 0.0)
    """
    return float((box_iou(predicted[:1], boxes) >= threshold).any())
