"""How much of the training enters the result, so that the model stays good at what it was good at."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from xattn.model.hubness import Hubness
from xattn.training.prepare import Prepared
from xattn.training.settings import Settings
from xattn.training.validation import TEXTS_AT_ONCE

SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)
"""Of the trained weights in the result, tried from the most to the least."""
BANK_SIZE = 1000


def interpolated(
    prepared: Prepared, trained: dict[str, Tensor], settings: Settings
) -> tuple[float, str | None]:
    """WiSE-FT (Wortsman et al. 2022): start + share · (trained - start), for the guard against forgetting.

    With pictures to watch, general ones kept apart or else the reference set: the largest share at which
    recall@1 on them falls by at most `max_forgetting`, or none. Without: 1 - `keep`. Leaves the model with
    these weights and banks; returns the share, and a warning if the model forgot. trained: those weights
    that differ from the start's.
    """
    model = prepared.model
    first_banks = model.hubness
    parameters = dict(prepared.model.named_parameters())

    @torch.no_grad()
    def mix(share: float) -> None:
        for name, value in trained.items():
            start = prepared.start[name]
            parameters[name].copy_(value if share == 1 else start + share * (value - start))

    if prepared.watched is None:
        mix(1 - settings.keep)
        fill_banks(prepared, settings)
        return 1 - settings.keep, None
    mix(0.0)
    before = prepared.watched(prepared.objective, first_banks).recall_1
    lost = 0.0
    for share in SHARES:
        mix(share)
        fill_banks(prepared, settings)
        lost = before - prepared.watched(prepared.objective, model.hubness).recall_1
        if lost <= settings.max_forgetting:
            note = f"trained weights enter with {share:.0%}: with more, recall@1 on general pictures fell"
            return share, note if share < 1 else None
    mix(0.0)
    model.hubness = first_banks
    return 0.0, f"the model forgets: even 10 % of the trained weights cost {lost:.1%} recall@1 elsewhere"


@torch.no_grad()
def fill_banks(prepared: Prepared, settings: Settings) -> None:
    """Renews the banks of a model that has them: some training pictures, whole, a caption of each; own and
    general ones alike, since what is typical is to hold for both."""
    model = prepared.model
    if not len(model.hubness.captions):
        return
    rng = random.Random(settings.seed)
    pictures = prepared.train.pictures
    drawn = rng.sample(pictures, min(BANK_SIZE, len(pictures)))
    told = [rng.choice(picture.captions) for picture in drawn]
    # Not by `encode_texts`: in head mode the text tower has read these captions already.
    parts = [told[i : i + TEXTS_AT_ONCE] for i in range(0, len(told), TEXTS_AT_ONCE)]
    captions = torch.cat([prepared.objective.texts(part) for part in parts])
    grids = prepared.train_pictures.grids([picture.row for picture in drawn])
    model.hubness = Hubness(model.dim, scale=model.hubness.scale).to(model.device)
    model.hubness.fill(captions, torch.cat([grid.pooled for grid in grids]))
