"""How well a map or its boxes hit the boxes that people drew."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Real

from xattn.geometry import box_iou, point_in_boxes


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


def box_accuracy(
    predicted: Real[np.ndarray, "n 4"], boxes: Real[np.ndarray, "m 4"], threshold: float = 0.5
) -> float:
    """1 if the first (strongest) predicted box overlaps any right one by IoU >= threshold, else 0.

    >>> right, nothing = np.array([[0, 0, .5, .5], [.5, .5, 1, 1]]), np.empty((0, 4))
    >>> box_accuracy(np.array([[.5, .5, 1, .9], [0, 0, 1, 1]]), right), box_accuracy(nothing, right)
    (1.0, 0.0)
    """
    return float((box_iou(predicted[:1], boxes) >= threshold).any())
