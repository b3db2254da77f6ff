"""Measures of retrieval, grounding and calibration, as pure functions over NumPy arrays.

Rules that all of them share:
- Equal scores count against: a model that gives every pair the same score is never right by luck.
- Boxes are [x1, y1, x2, y2] as fractions of the picture's width and height; where several are given, any
  of them is right. A map cell (row, column) of an H×W map covers its 1/H by 1/W of the picture evenly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from xattn.types import Size

# --- retrieval --------------------------------------------------------------------------------------


class Ranks(NamedTuple):
    """Places of the right answers, counted from 1.

    text_to_image: Int[N], of each text's own picture among all pictures
    image_to_text: Int[C], of the best of a picture's own texts among that one and all foreign texts
    captioned:     Int[C], the pictures that have texts, ascending
    """

    text_to_image: Int[np.ndarray, " N"]
    image_to_text: Int[np.ndarray, " C"]
    captioned: Int[np.ndarray, " C"]


class RankCounter:
    """Ranks of M pictures and N texts from blocks of columns, so that no M×N matrix is ever held.

    owners:     Int[N], the picture each text belongs to; a picture may have any number of texts
    own_scores: Float[N], the score of each text with its own picture, known beforehand
    tolerance:  scores at most this far apart are equal. For own scores that were computed apart from the
                blocks: a product of another shape may differ in its last bits.

    rank = 1 + the number of wrong answers that score at least as high (pessimistic on ties). Other texts
    of the same picture are no wrong answers.
    """

    def __init__(
        self,
        owners: Int[np.ndarray, " N"],
        own_scores: Float[np.ndarray, " N"],
        num_images: int,
        tolerance: float = 0.0,
    ) -> None:
        _require_finite(own_scores)
        self._owners = owners
        self._tolerance = tolerance
        self._best = np.full(num_images, -np.inf)
        np.maximum.at(self._best, owners, own_scores)
        self._text_to_image = np.zeros(len(owners), np.int64)
        self._foreign_above = np.zeros(num_images, np.int64)

    def add(self, texts: slice, scores: Float[np.ndarray, "M b"]) -> None:
        """Counts one block: the scores of all pictures with some texts. Each text in one block only."""
        owners = self._owners[texts]
        self._text_to_image[texts] = text_ranks(scores, owners, self._tolerance)
        above = scores >= self._best[:, None] - self._tolerance
        above[owners, np.arange(len(owners))] = False
        self._foreign_above += above.sum(1)

    def ranks(self) -> Ranks:
        """Once every text has been added."""
        captioned = np.unique(self._owners)
        return Ranks(self._text_to_image, 1 + self._foreign_above[captioned], captioned)


def retrieval_ranks(scores: Float[np.ndarray, "M N"], owners: Int[np.ndarray, " N"]) -> Ranks:
    """Ranks both ways from a whole score matrix; `RankCounter` is for what does not fit.

    Two pictures, the first with two texts. The second text scores as high with the wrong picture, so its
    own picture is second; the first picture's best text (.9) beats the foreign .3, the second's .6 ties.

    >>> scores = np.array([[.9, .6, .3], [.1, .6, .6]])
    >>> ranks = retrieval_ranks(scores, np.array([0, 0, 1]))
    >>> ranks.text_to_image.tolist(), ranks.image_to_text.tolist()
    ([1, 2, 1], [1, 2])
    """
    counter = RankCounter(owners, scores[owners, np.arange(len(owners))], len(scores))
    counter.add(slice(None), scores)
    return counter.ranks()


def text_ranks(
    scores: Float[np.ndarray, "M b"], owners: Int[np.ndarray, " b"], tolerance: float = 0.0
) -> Int[np.ndarray, " b"]:
    """Rank of each text's own picture: 1 + the others that score at least as high.

    >>> text_ranks(np.array([[.9, .5], [.1, .5], [.2, .7]]), np.array([0, 1])).tolist()
    [1, 3]
    """
    _require_finite(scores)
    own = scores[owners, np.arange(len(owners))]
    ranks: Int[np.ndarray, " b"] = (scores >= own - tolerance).sum(0)
    return ranks


def two_stage_ranks(
    first: Float[np.ndarray, "M b"],
    second: Float[np.ndarray, "M b"],
    owners: Int[np.ndarray, " b"],
    candidates: int,
) -> Int[np.ndarray, " b"]:
    """Rank of each text's own picture when `first` proposes candidates that `second` puts in order.

    Pictures that are not proposed follow in the order of `first`. Those tied for the last place among
    the candidates are all proposed.

    Of three pictures two are proposed; the own one is best in the second stage, but only if proposed:

    >>> first, second = np.array([[.1], [.2], [.3]]), np.array([[.9], [.8], [.7]])
    >>> two_stage_ranks(first, second, np.array([1]), 2).tolist()
    [1]
    >>> two_stage_ranks(first, second, np.array([0]), 2).tolist()
    [3]
    """
    _require_finite(first)
    _require_finite(second)
    columns = np.arange(len(owners))
    candidate = proposed(first, candidates)
    reranked = (candidate & (second >= second[owners, columns])).sum(0)
    by_first = (first >= first[owners, columns]).sum(0)
    ranks: Int[np.ndarray, " b"] = np.where(candidate[owners, columns], reranked, by_first)
    return ranks


def proposed(first: Float[np.ndarray, "M b"], candidates: int) -> Bool[np.ndarray, "M b"]:
    """Which pictures the first stage hands on for each text: the best, and those tied for the last place.

    >>> proposed(np.array([[.3], [.1], [.2], [.2]]), 2)[:, 0].tolist()
    [True, False, True, True]
    """
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}")
    cut = max(len(first) - candidates, 0)
    above: Bool[np.ndarray, "M b"] = first >= np.partition(first, cut, axis=0)[cut]
    return above


def recall_at_k(ranks: Int[np.ndarray, " N"], k: int) -> float:
    """Share of queries whose right answer is among the first k.

    >>> recall_at_k(np.array([1, 2, 6, 1]), 5)
    0.75
    """
    return float((ranks <= k).mean()) if len(ranks) else float("nan")


def median_rank(ranks: Real[np.ndarray, " N"], weights: Real[np.ndarray, " N"] | None = None) -> float:
    """The rank that half of the queries do not exceed; of an even number, the mean of the middle two.

    weights: how often each counts.

    >>> median_rank(np.array([1, 9, 2, 4])), median_rank(np.array([1, 9, 2]), np.array([1, 3, 1]))
    (3.0, 9.0)
    """
    if weights is None:
        weights = np.ones(len(ranks))
    order = np.argsort(ranks)
    reached = np.cumsum(weights[order])
    if not len(reached) or reached[-1] <= 0:
        return float("nan")
    half = reached[-1] / 2
    middle = [np.searchsorted(reached, half, side) for side in ("left", "right")]
    return float(np.mean([ranks[order[min(i, len(order) - 1)]] for i in middle]))


def _require_finite(scores: Float[np.ndarray, ...]) -> None:
    # A NaN compares as "not above", so it would count as a perfect rank.
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite; found NaN or infinity")


# --- grounding --------------------------------------------------------------------------------------


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


# --- probabilities ----------------------------------------------------------------------------------


def expected_calibration_error(
    probabilities: Float[np.ndarray, " N"],
    outcomes: Bool[np.ndarray, " N"] | Real[np.ndarray, " N"],
    weights: Real[np.ndarray, " N"] | None = None,
    num_bins: int = 15,
) -> float:
    """Mean gap between the stated probability and the frequency, over equally wide bins of probability,
    each weighted with its share of the cases (Guo et al. 2017). 0 is perfect.

    Two cases at .9 of which one is true, two at .1 of which none is: (.4 + .1) / 2.

    >>> probabilities, true = np.array([.9, .9, .1, .1]), np.array([True, False, False, False])
    >>> round(expected_calibration_error(probabilities, true), 12)
    0.25
    """
    if weights is None:
        weights = np.ones(len(probabilities))
    bins = np.minimum((probabilities * num_bins).astype(np.intp), num_bins - 1)
    gaps = np.bincount(bins, weights * (probabilities - outcomes), num_bins)
    total = weights.sum()
    return float(np.abs(gaps).sum() / total) if total > 0 else float("nan")


def precision(
    predicted: Bool[np.ndarray, " N"],
    actual: Bool[np.ndarray, " N"],
    weights: Real[np.ndarray, " N"] | None = None,
) -> float:
    """Share of the predicted cases that are actual ones; NaN if none is predicted.

    >>> precision(np.array([True, True, False]), np.array([True, False, True]))
    0.5
    """
    counted = predicted.astype(float) if weights is None else predicted * weights
    return float((counted * actual).sum() / counted.sum()) if counted.sum() > 0 else float("nan")


def recall(
    predicted: Bool[np.ndarray, " N"],
    actual: Bool[np.ndarray, " N"],
    weights: Real[np.ndarray, " N"] | None = None,
) -> float:
    """Share of the actual cases that are predicted; NaN if there is none.

    >>> recall(np.array([True, False, False, False]), np.array([True, True, True, False]))
    0.3333333333333333
    """
    return precision(actual, predicted, weights)
