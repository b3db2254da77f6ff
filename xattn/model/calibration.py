"""How cosines become a score, and scores probabilities."""

from __future__ import annotations

from dataclasses import dataclass

MOST_NULL = 0.8
"""Share of attention on null above which a text counts as not found."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How cosines become a score, and scores probabilities; see the module docstring.

    nothing_below: probability of the best match below which a search probably found nothing
    phrase_scale, phrase_bias: of a score, for the probability that what a phrase names is in a picture
    phrase_below: that probability below which it was not found; 0: never, as nothing was fitted
    """

    logit_scale: float = 10.0
    logit_bias: float = 0.0
    pooled_weight: float = 0.5
    nothing_below: float = 0.1
    phrase_scale: float = 1.0
    phrase_bias: float = 0.0
    phrase_below: float = 0.0
