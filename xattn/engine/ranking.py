"""Stage 2: the regions of each candidate are read and scored once; maps of the best come from that pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from xattn.model import XAttnModel
from xattn.store.schema import Content
from xattn.types import Grounding, Phrase, RegionGrid


class Ranked(NamedTuple):
    """A content among the best. groundings: of the whole text, whose score ranks, then of its phrases."""

    content: Content
    groundings: list[Grounding]

    @property
    def score(self) -> float:
        return self.groundings[0].score


def rank(
    model: XAttnModel,
    candidates: Iterable[tuple[Sequence[Content], RegionGrid]],
    phrases: Sequence[Phrase],
    embeddings: Float[Tensor, "N D"],
    k: int,
) -> list[Ranked]:
    """The k best candidates, and those of the same score as the last of them, in no order.

    Args:
        model: scores the stored regions
        candidates: contents with their regions, a part at a time; one part is in memory
        phrases: the whole text first, by which is ranked, then its phrases
        embeddings: of the phrases, unit norm
        k: how many candidates to return
    """
    best: list[Ranked] = []
    for contents, regions in candidates:
        if not contents:
            continue
        whole = model.examine(regions, embeddings[:1])
        scores = whole.scores[:, 0].tolist()
        least = _least([*scores, *(ranked.score for ranked in best)], k)
        chosen = [row for row, score in enumerate(scores) if score >= least]
        best = [ranked for ranked in best if ranked.score >= least]
        if not chosen:
            continue
        examined = whole.rows(chosen)
        if len(phrases) > 1:
            examined = examined.with_texts(model.examine(regions.take(chosen), embeddings[1:]))
        sizes = [contents[row].size for row in chosen]
        groundings = examined.groundings(phrases, sizes, model.calibration)
        best += [Ranked(contents[row], some) for row, some in zip(chosen, groundings, strict=True)]
    return best


def _least(scores: Sequence[float], k: int) -> float:
    """The k-th best score, or the worst where there are fewer."""
    return sorted(scores, reverse=True)[: max(k, 1)][-1]
