"""How well probabilities fit what is true."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Real


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
