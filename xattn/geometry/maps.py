"""Maps over a grid of cells: enlarged for the eye, and summed up as boxes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from xattn.geometry.boxes import Boxes, coverage, scale_box
from xattn.types import Box, ScoredBox, Size

AREA_WEIGHT = 0.95
"""The fewest cells that hold this share of a map's weight are its areas; the rest is background."""
AREA_EXPONENT = 0.2
"""A box is the rectangle with the largest weight / area ** AREA_EXPONENT: 0 gives the whole area, higher
values cut off its faint edges. Both were chosen on the `dev` parts of coco_mix and flickr8k, where any two
values nearby are within one point of each other."""
MIN_BOX_WEIGHT = 0.15
"""Areas other than the heaviest that hold less than this share of the map's weight get no box."""
MAX_ROUNDS = 8
"""Rows and columns of a rectangle are improved in turn; two or three rounds are usual."""


@lru_cache(maxsize=128)
def _interpolation(cells: int, samples: int) -> Float[np.ndarray, "samples cells"]:
    """Matrix that samples a line of cells at evenly spaced half-pixel centres. Rows sum to 1."""
    position = ((np.arange(samples) + 0.5) * (cells / samples) - 0.5).clip(0, cells - 1)
    before = np.floor(position).astype(np.intp)
    after = np.minimum(before + 1, cells - 1)
    fraction = (position - before).astype(np.float32)
    matrix = np.zeros((samples, cells), np.float32)
    row = np.arange(samples)
    matrix[row, before] += 1 - fraction
    matrix[row, after] += fraction
    matrix.flags.writeable = False
    return matrix


def resize_map(weights: Float[np.ndarray, "*N H W"], size: Size) -> Float[np.ndarray, "*N height width"]:
    """Bilinear interpolation with half-pixel centres, edges held; float32.

    What `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` computes, as two matrix
    products: several times faster than an image library. Meant to enlarge; a smaller size is sampled, not
    averaged.
    """
    *_, height, width = weights.shape
    rows, columns = _interpolation(height, size[0]), _interpolation(width, size[1])
    resized: np.ndarray = rows @ weights.astype(np.float32, copy=False) @ columns.T
    return resized


def weight_in_boxes(weights: Float[np.ndarray, "H W"], boxes: Boxes) -> float:
    """Share of a map's weight inside the union of the boxes: a cell counts with its part that is inside.

    weights: none negative. A map without weight has none inside: 0.

    >>> weight_in_boxes(np.array([[.25, .75]]), np.array([[.5, 0, 1, .5]]))
    0.375
    """
    total = float(weights.sum())
    if total <= 0:
        return 0.0
    return float((weights * coverage(boxes, (weights.shape[0], weights.shape[1]))).sum() / total)


def boxes_from_map(weights: Float[np.ndarray, "H W"], size: Size) -> tuple[ScoredBox, ...]:
    """The areas of a map as boxes in pixels of a picture of `size`, heaviest first.

    The fewest cells that hold AREA_WEIGHT of the map fall into areas connected by their sides. Each area
    gives the rectangle of cells with the largest weight / area ** AREA_EXPONENT, counting that area's cells
    only; a box's weight is their share of the map's. The heaviest is always there, others from
    MIN_BOX_WEIGHT on: one box for one object, several for a map with several peaks.
    A constant map gives one box, the whole picture. A map without a positive weight gives none.
    """
    weights = np.maximum(weights, 0, dtype=np.float64)
    if not 0 < weights.max() < np.inf:  # written so that NaN gives no boxes either
        return ()
    weights = weights / weights.sum()
    areas, _ = ndimage.label(_heaviest_cells(weights, AREA_WEIGHT))
    boxes = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(areas), 1):
        inside = np.where(areas[rows, columns] == label, weights[rows, columns], 0.0)
        y1, y2, x1, x2 = _tightest_rectangle(inside, AREA_EXPONENT)
        box = Box(columns.start + x1, rows.start + y1, columns.start + x2, rows.start + y2)
        weight = min(float(inside[y1:y2, x1:x2].sum()), 1.0)
        boxes.append(ScoredBox(scale_box(box, weights.shape, size), weight))
    boxes.sort(key=lambda scored: scored.weight, reverse=True)
    return (*boxes[:1], *(scored for scored in boxes[1:] if scored.weight >= MIN_BOX_WEIGHT))


def _heaviest_cells(weights: Float[np.ndarray, "H W"], share: float) -> Bool[np.ndarray, "H W"]:
    """The fewest cells that hold the share of the weight; all that tie with the last of them are in."""
    falling = np.sort(weights, axis=None)[::-1]
    last = np.searchsorted(np.cumsum(falling), share * weights.sum())
    chosen: Bool[np.ndarray, "H W"] = weights >= falling[min(int(last), len(falling) - 1)]
    return chosen & (weights > 0)


def _tightest_rectangle(weights: Float[np.ndarray, "H W"], exponent: float) -> tuple[int, int, int, int]:
    """(y1, y2, x1, x2) with a large weight / area ** exponent; ends exclusive.

    Rows and columns are chosen in turn, each the best for the other, from all columns on: a local optimum,
    at H² + W² sums a round where trying all rectangles takes H²·W².
    """
    rows, columns = (0, weights.shape[0]), (0, weights.shape[1])
    for _ in range(MAX_ROUNDS):
        before = rows, columns
        rows = _best_span(weights[:, columns[0] : columns[1]].sum(1), exponent)
        columns = _best_span(weights[rows[0] : rows[1]].sum(0), exponent)
        if (rows, columns) == before:
            break
    return *rows, *columns


def _best_span(line: Float[np.ndarray, " n"], exponent: float) -> tuple[int, int]:
    """The start and end (exclusive) of the run with the largest sum / length ** exponent."""
    sums = np.concatenate([[0.0], np.cumsum(line)])
    starts, ends = _spans(len(line))
    best = int(((sums[ends] - sums[starts]) * (ends - starts) ** -exponent).argmax())
    return int(starts[best]), int(ends[best])


@lru_cache(maxsize=128)
def _spans(length: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(length + 1, 1)
