"""The currency of an evaluation: measured cases, from which figures, intervals and tests are made later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from xattn.metrics.intervals import Statistic, Values


@dataclass(frozen=True, slots=True)
class Settings:
    """How it is measured.

    candidates:         what stage 1 proposes to stage 2; `Engine.search` proposes as many
    threshold:          match probability from which on a statement is taken for true
    pointing_tolerance: of the pointing game, as a fraction of the picture's sides
    num_resamples, seed: of the bootstrap, and of the random pictures that calibration is measured with
    """

    candidates: int = 100
    threshold: float = 0.5
    pointing_tolerance: float = 0.0
    num_resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """The cases behind one figure.

    values: [N ...]; pictures: Int[N], the picture of each; statistic: of them, the mean unless given
    is_share: the figure is a share, to be shown in percent
    reference: the subject of the same group and measure that this one is compared with
    is_baseline: the figure does not depend on the model
    """

    group: str
    measure: str
    subject: str
    values: Values
    pictures: Int[np.ndarray, " N"]
    statistic: Statistic | None = None
    is_share: bool = True
    reference: str | None = None
    is_baseline: bool = False


OnProgress = Callable[[str, int, int], None]
"""(what is being done, done, total)"""
