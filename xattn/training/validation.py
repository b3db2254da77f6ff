"""Recall on the held-out pictures while training runs, and the signs that training ruins the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xattn.losses import exchange
from xattn.model.hubness import Hubness
from xattn.training import parallel
from xattn.training.objective import Objective
from xattn.training.pictures import Picture
from xattn.training.sources import AT_ONCE, Pictures

TEXTS_AT_ONCE = 256
COLLAPSED_SHARE = 0.5
FEWEST_FOR_COLLAPSE = 10
"""Of fewer pictures one may well be first for half of the captions."""
RANDOM_RANK = 0.5
SURELY_BETTER = 4.0
"""Standard errors by which a model must rank better than chance before it can be said to have lost that."""
LOST_SHARE = 0.75
"""Of the lead over chance, from which a model counts as broken."""
DIVERGED = 1.5
"""Times the first loss, from which training counts as running away: a healthy loss falls."""
LEAST_FIRST_LOSS = 1.0
"""A model that begins with less has nearly learned its pictures: from batch to batch that may double."""


@dataclass(frozen=True, slots=True)
class Validated:
    """Text → image over the held-out pictures, as shares.

    mean_rank: of the other pictures, so many come before the right one: 0 at best, RANDOM_RANK by chance.
    It tells a broken model where recall cannot: among 50 pictures chance alone finds a fifth at ten.
    most_first: share of captions for which one and the same picture comes first, whichever it is. High:
    every query ranks the same picture, the model has collapsed.
    """

    recall_1: float
    recall_5: float
    recall_10: float
    mean_rank: float
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

    def broke(self, before: Validated) -> bool:
        """Whether it ranks nearly at random what the starting model did not: LOST_SHARE of that one's lead
        over chance is gone. Where its lead was no larger than luck, nothing was there to lose."""
        # By chance a rank is spread evenly over 0 … 1. Captions of one picture share their luck.
        luck = 1 / math.sqrt(12 * self.num_pictures)
        lead, lead_before = RANDOM_RANK - self.mean_rank, RANDOM_RANK - before.mean_rank
        return lead_before >= SURELY_BETTER * luck and lead <= (1 - LOST_SHARE) * lead_before

    def fault(self, before: Validated) -> str | None:
        """What a person should read if training has ruined the model; None if it has not."""
        if self.collapsed(before):
            return (
                f"the model has collapsed: one picture comes first for {self.most_first:.0%} of all "
                f"captions, {before.most_first:.0%} before"
            )
        if self.broke(before):
            return (
                f"the model broke: {self.mean_rank:.0%} of the other pictures come before the right one, "
                f"{before.mean_rank:.0%} before training, {RANDOM_RANK:.0%} by chance"
            )
        return None

    def record(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def of_record(cls, entry: Mapping[str, Any]) -> Validated:
        """From a record with other things in it."""
        return cls(**{field.name: entry[field.name] for field in fields(cls)})


def diverged(first_loss: float, losses: Sequence[float]) -> str | None:
    """What a person should read if the training loss has run away; None if it has not.

    first_loss: of the starting model; losses: of the steps since the last validation. Gradients being
    clipped, a rate far too high need not end in a model that ranks alike or at random: it may leave one
    that keeps jumping. The loss shows it.
    """
    mean = sum(losses) / max(1, len(losses))
    if mean <= DIVERGED * max(first_loss, LEAST_FIRST_LOSS):
        return None
    return f"training runs away: the loss is {mean:.3g} on average, {first_loss:.3g} at the start"


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
    mean_rank = ((ranks - 1) / max(1, len(scores) - 1)).mean().item()
    most_first = firsts.max().item() / len(owners)
    return Validated(recall_1, recall_5, recall_10, mean_rank, most_first, len(scores))
