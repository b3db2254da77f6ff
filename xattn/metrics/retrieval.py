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


# --- probabilities ----------------------------------------------------------------------------------
