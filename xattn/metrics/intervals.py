"""How sure a measured figure is: the bootstrap, over pictures.

Whole pictures are drawn, with all their values: captions and boxes of one picture are not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

Values = Shaped[np.ndarray, "N ..."]
Counts = Real[np.ndarray, " N"]


class Interval(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """A difference with its 95 % interval, and the two-sided p-value of its being 0."""

    value: float
    low: float
    high: float
    p_value: float


Statistic = Callable[[Values, Counts], float]
"""(values [N ...], how often each counts [N]) → a figure"""


def bootstrap_interval(
    values: Values,
    pictures: Int[np.ndarray, " N"],
    statistic: Statistic | None = None,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """95 % percentile bootstrap (Efron 1979) of a figure, resampling pictures with all their values.

    values: [N ...]; pictures: which picture each value is of; statistic: the mean unless given.
    Without values all three are NaN.

    >>> bootstrap_interval(np.array([1., 1., 1.]), np.array([0, 0, 7]))
    Interval(value=1.0, low=1.0, high=1.0)
    """
    if not len(values):
        return Interval(*[float("nan")] * 3)
    figures = _resampled(values, pictures, statistic, num_resamples, seed)
    return Interval(_figure(values, statistic), *_middle(figures))


def paired_difference(
    a: Values,
    b: Values,
    pictures: Int[np.ndarray, " N"],
    statistic: Statistic | None = None,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """A figure of a less that of b, two models on the same cases, by resampling pictures: both are drawn
    together, so what is hard for both cancels.

    a, b, statistic: as for `bootstrap_interval`. p_value is twice the share of resamples on the smaller
    side of 0, counting one more so that it is never 0.

    >>> paired_difference(np.array([1., 1.]), np.array([0., 0.]), np.array([0, 1]), num_resamples=99)
    Difference(value=1.0, low=1.0, high=1.0, p_value=0.02)
    """
    if not len(a):
        return Difference(*[float("nan")] * 4)
    resampled = [_resampled(values, pictures, statistic, num_resamples, seed) for values in (a, b)]
    figures = resampled[0] - resampled[1]  # the same seed draws the same pictures
    value = _figure(a, statistic) - _figure(b, statistic)
    smaller = min((figures <= 0).sum(), (figures >= 0).sum())
    p_value = min(1.0, 2 * (smaller + 1) / (num_resamples + 1))
    return Difference(value, *_middle(figures), float(p_value))


def _figure(values: Values, statistic: Statistic | None) -> float:
    return float(values.mean()) if statistic is None else statistic(values, np.ones(len(values)))


def _resampled(
    values: Values,
    pictures: Int[np.ndarray, " N"],
    statistic: Statistic | None,
    num_resamples: int,
    seed: int,
) -> Float[np.ndarray, " resamples"]:
    """The figure on each resample."""
    _, picture = np.unique(pictures, return_inverse=True)
    num_pictures = int(picture.max()) + 1
    rng = np.random.default_rng(seed)
    draws = (rng.integers(num_pictures, size=num_pictures) for _ in range(num_resamples))
    if statistic is None:  # the mean of sums: no need to go back to the single values
        sums, counts = np.bincount(picture, values), np.bincount(picture)
        return np.array([sums[draw].sum() / counts[draw].sum() for draw in draws])
    return np.array(
        [statistic(values, np.bincount(draw, minlength=num_pictures)[picture]) for draw in draws]
    )


def _middle(figures: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    if np.isnan(figures).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(figures, [2.5, 97.5])
    return float(low), float(high)
