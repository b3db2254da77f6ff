"""Recall on the held-out pictures while training runs, and the sign that a model has collapsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from training.data import Picture
from training.own import parallel
from training.own.objective import Objective
from training.own.sources import AT_ONCE, Pictures
from xattn.contrastive import exchange
from xattn.hubness import Hubness

TEXTS_AT_ONCE = 256
COLLAPSED_SHARE = 0.5
FEWEST_FOR_COLLAPSE = 10
"""Of so few pictures one may well be first for half of the captions."""


@dataclass(frozen=True, slots=True)
class Validated:
    """Text → image over the held-out pictures, as shares.

    most_first: share of captions for which one and the same picture comes first, whichever it is. High:
    every query ranks the same picture, the model has collapsed.
    """

    recall_1: float
    recall_5: float
    recall_10: float
    most_first: float
    num_pictures: int

    @property
    def value(self) -> float:
        """What is maximised; the mean of three recalls jumps less than any of them."""
        return (self.recall_1 + self.recall_5 + self.recall_10) / 3

    def collapsed(self, before: Validated) -> bool:
        """Against the starting model, which tells how alike the captions are."""
        if self.num_pictures < FEWEST_FOR_COLLAPSE:
            return False
        return self.most_first > max(COLLAPSED_SHARE, 1.5 * before.most_first)

    def record(self) -> dict[str, float]:
        return asdict(self)


class Validation:
    """Held-out pictures, whole, with all their captions. Each process scores a part of the pictures."""

    def __init__(self, pictures: Sequence[Picture], source: Pictures, pooled_weight: float) -> None:
        self.pictures = pictures
        self.source = source
        self.pooled_weight = pooled_weight
        owners = [(b, caption) for b, picture in enumerate(pictures) for caption in picture.captions]
        self.owners = torch.tensor([b for b, _ in owners])
        self.captions = [caption for _, caption in owners]

    @torch.no_grad()
    def scores(self, objective: Objective, hubness: Hubness | None = None) -> Float[Tensor, "M N"]:
        """Combined cosines of all pictures and captions; leaves the objective in the mode it was in.

        hubness: taken out of them, as a search does
        """
        training = objective.training
        objective.eval()
        own = self.captions[parallel.part(len(self.captions))]
        parts = parallel.pieces(own, len(self.captions), TEXTS_AT_ONCE)
        texts = exchange(torch.cat([objective.texts(some) for some in parts]))
        rows = [picture.row for picture in self.pictures[parallel.part(len(self.pictures))]]
        found = [texts.new_zeros(0, len(texts))]
        groups = parallel.pieces(rows, len(self.pictures), AT_ONCE)
        for some, following in zip(groups, [*groups[1:], []], strict=True):
            if not some:  # more processes than pictures
                continue
            items = self.source.load(some, [0] * len(some))
            self.source.ahead(following, [0] * len(following))
            regions, pooled, mask = objective.images(items, self.source)
            attended = objective.model.attention.cosine(regions, texts, mask)
            combined = self.pooled_weight * (pooled @ texts.T) + (1 - self.pooled_weight) * attended
            found.append(combined if hubness is None else combined - hubness(pooled, texts))
        objective.train(training)
        return exchange(torch.cat(found)).cpu()

    def __call__(self, objective: Objective, hubness: Hubness | None = None) -> Validated:
        return validated(self.scores(objective, hubness), self.owners)


def validated(scores: Float[Tensor, "M N"], owners: Tensor) -> Validated:
    """owners: the picture of each caption. A picture of the same score counts as before the right one."""
    scores = scores.nan_to_num(nan=0.0)
    own = scores.gather(0, owners[None])
    ranks = (scores >= own).sum(0)
    firsts = torch.bincount(scores.argmax(0), minlength=len(scores))
    recall_1, recall_5, recall_10 = ((ranks <= k).float().mean().item() for k in (1, 5, 10))
    most_first = firsts.max().item() / len(owners)
    return Validated(recall_1, recall_5, recall_10, most_first, len(scores))
