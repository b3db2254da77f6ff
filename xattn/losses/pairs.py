"""What the loss over all pairs is given, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

Kind = Literal["sigmoid", "info_nce"]


Extent = tuple[int, int]
"""Pictures and texts that are worked on together."""


TILE: Extent = (4, 128)
"""With 4 heads and 196 regions, attention and its gradient take about 3 MB: they stay in the caches."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """What the loss is taken over.

    regions, pooled: of B pictures (RegionGrid); mask: True where a region is real
    texts:           N captions, unit norm; in a group of processes those of all (`exchange`)
    positives:       which caption belongs to which picture; any number a picture and a caption
    valid:           False for pairs that count neither as right nor as wrong; positives must be valid
    """

    regions: Float[Tensor, "B R D"]
    pooled: Float[Tensor, "B D"]
    texts: Float[Tensor, "N D"]
    positives: Bool[Tensor, "B N"]
    mask: Bool[Tensor, "B R"] | None = None
    valid: Bool[Tensor, "B N"] | None = None


@dataclass(frozen=True, slots=True)
class PairLoss:
    """total = weights[0] · pooled + weights[1] · attended; the addends carry no gradient.

    In a group of processes these are the parts of the own pictures: summed over processes they are the
    loss of the whole batch.
    """

    total: Float[Tensor, ""]
    pooled: Float[Tensor, ""]
    attended: Float[Tensor, ""]
