"""Time of several things in the same run, in turns, so that what slows the machine slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float


def in_turns(
    tasks: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, Float[np.ndarray, " rounds"]]:
    """Seconds of each task in each round. Who goes first changes from round to round.

    warm_up: rounds before those that are measured.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    names = list(tasks)
    for turn in range(warm_up + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            tasks[name]()
            elapsed = time.perf_counter() - started
            if turn >= warm_up:
                seconds[name].append(elapsed)
    return {name: np.array(values) for name, values in seconds.items()}


def milliseconds(seconds: Float[np.ndarray, " rounds"], percentile: float = 50.0) -> float:
    """Of measured times; by default the median."""
    return float(np.percentile(seconds, percentile)) * 1e3


def median_ratio(
    numerator: Float[np.ndarray, " rounds"], denominator: Float[np.ndarray, " rounds"]
) -> float:
    """Median over rounds of the ratio within a round."""
    return float(np.median(numerator / denominator))
