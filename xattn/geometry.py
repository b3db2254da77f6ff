"""Boxes, and the way between grid cells and pixels.

Every grid covers its whole picture: of an H×W grid on a picture of (height, width), cell (row, column)
is exactly the rectangle [column·width/W, (column+1)·width/W) × [row·height/H, (row+1)·height/H). Pixel
coordinates are continuous: pixel i covers [i, i+1), so its centre is at i + ½.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from xattn.types import Box, ScoredBox, Size

Point = tuple[float, float]
"""(x, y) in pixels"""

BOX_FRACTION = 0.5
"""A place is inside a box's area if its weight is at least this share of the map's maximum. At ½, a
single hot cell gives a box of exactly that cell."""
MIN_BOX_WEIGHT = 0.05
"""Boxes other than the strongest that hold less than this share of the map's weight are dropped."""
STEPS_PER_CELL = 8
"""Boxes end at multiples of a cell's side divided by this."""


# --- maps -----------------------------------------------------------------------------------------------


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


def boxes_from_map(weights: Float[np.ndarray, "H W"], size: Size) -> tuple[ScoredBox, ...]:
    """The hot areas of a map as boxes in pixels of a picture of `size`, strongest first.

    The map is enlarged bilinearly; what reaches BOX_FRACTION of its maximum falls into areas connected by
    their sides; each area gives its bounding box, weighted with the share of the map's weight inside the
    box. The strongest is always kept, others only from MIN_BOX_WEIGHT on. Boxes may overlap.
    A constant map gives one box, the whole picture. A map without a positive weight gives none.
    """
    weights = np.maximum(weights, 0, dtype=np.float32)
    if not 0 < weights.max() < np.inf:  # written so that NaN gives no boxes either
        return ()
    weights = weights / weights.max()  # so that denormals survive the products
    height, width = weights.shape
    fine = resize_map(weights, (height * STEPS_PER_CELL, width * STEPS_PER_CELL))
    areas, _ = ndimage.label(fine >= BOX_FRACTION * fine.max())
    slices = ndimage.find_objects(areas)
    spans = np.array([(y.start, y.stop, x.start, x.stop) for y, x in slices], np.float32) / STEPS_PER_CELL
    found = [
        ScoredBox(scale_box(Box(x1, y1, x2, y2), weights.shape, size), weight)
        for (y1, y2, x1, x2), weight in zip(spans.tolist(), _shares(weights, spans), strict=True)
    ]
    found.sort(key=lambda scored: scored.weight, reverse=True)
    return (*found[:1], *(scored for scored in found[1:] if scored.weight >= MIN_BOX_WEIGHT))


def weight_in_box(weights: Float[np.ndarray, "H W"], size: Size, box: Box) -> float:
    """Share of a map's weight inside a box, in [0, 1]: a cell counts with the part of it that is inside.

    weights: none negative. box: in pixels of a picture of `size`. 0 if the map has no weight. Also called
    energy in box (energy-based pointing game: Wang et al. 2020, Score-CAM, section 4.3).
    """
    x1, y1, x2, y2 = scale_box(box, size, weights.shape)
    return _shares(weights, np.array([(y1, y2, x1, x2)]))[0]


def _shares(weights: Float[np.ndarray, "H W"], spans: Float[np.ndarray, "boxes 4"]) -> list[float]:
    """Share of the weight inside each box, given as its first and last y, then x, in cells."""
    rows, columns = (
        # How much of each cell lies between start and stop.
        np.diff(np.arange(cells + 1).clip(start, np.maximum(start, stop)))
        for cells, start, stop in (
            (weights.shape[0], spans[:, 0:1], spans[:, 1:2]),
            (weights.shape[1], spans[:, 2:3], spans[:, 3:4]),
        )
    )
    total = weights.sum()
    inside = (rows @ weights * columns).sum(1)
    shares: list[float] = (inside / total if total > 0 else np.zeros(len(spans))).clip(0, 1).tolist()
    return shares


def peak(weights: Float[np.ndarray, "H W"], size: Size) -> Point:
    """Centre of the heaviest cell, in pixels of a picture of `size`; of equals the first by rows.

    That is also where the bilinearly enlarged map is highest.
    """
    height, width = weights.shape
    row, column = divmod(int(weights.argmax()), width)
    return (column + 0.5) * size[1] / width, (row + 0.5) * size[0] / height


# --- cells, boxes, points -------------------------------------------------------------------------------


def cell_box(row: int, column: int, grid: Size, size: Size) -> Box:
    """The pixels that a cell of an (H, W) grid covers on a picture of `size`."""
    return scale_box(Box(column, row, column + 1, row + 1), grid, size)


def cell_at(point: Point, grid: Size, size: Size) -> tuple[int, int]:
    """(row, column) of the cell a point of the picture lies in; of the nearest, if it lies outside."""
    row, column = int(point[1] * grid[0] // size[0]), int(point[0] * grid[1] // size[1])
    return min(max(row, 0), grid[0] - 1), min(max(column, 0), grid[1] - 1)


def contains(box: Box, point: Point) -> bool:
    """x2 and y2 are exclusive."""
    return box.x1 <= point[0] < box.x2 and box.y1 <= point[1] < box.y2


def iou(a: Box, b: Box) -> float:
    """Area of the intersection over area of the union; 0 if neither has an area."""
    overlap = Box(max(a.x1, b.x1), max(a.y1, b.y1), min(a.x2, b.x2), min(a.y2, b.y2)).area
    union = a.area + b.area - overlap
    return overlap / union if union > 0 else 0.0


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
