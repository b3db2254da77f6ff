"""What head mode trains, and for what: fusion, text head and cross-attention, over all pairs of a batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from training.batches import PictureFeatures, gather
from training.calibrate import fit_platt
from training.data import Picture
from training.features import ViewFeatures
from training.own.plan import Plan, Shuffled
from training.own.settings import Settings
from training.run import towers_of
from xattn.contrastive import Kind, PairLoss, Pairs, all_pairs_loss
from xattn.model import XAttnModel

SCALES = (5.0, 40.0)
"""Where the logits' scales may start."""


@dataclass(frozen=True, slots=True)
class HeadBatch:
    """B pictures and N captions; rows: of the captions in the text table."""

    given: PictureFeatures
    rows: Int[Tensor, " N"]
    positives: Bool[Tensor, "B N"]


class Batches:
    """Batch number i of epoch e is the same in every run with the same seed: nothing to remember."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        features: Sequence[ViewFeatures],
        text_rows: dict[str, int],
        settings: Settings,
        device: torch.device,
        plan: Plan | None = None,
    ) -> None:
        self.pictures = pictures
        self.plan = plan or Shuffled(len(pictures), settings.batch_size, settings.seed)
        self.features = features
        self.settings = settings
        self.device = device
        self._rows = [[text_rows[caption] for caption in picture.captions] for picture in pictures]
        self.per_epoch = self.plan.per_epoch

    def members(self, epoch: int, index: int) -> list[int]:
        """Which pictures."""
        return self.plan.members(epoch, index)

    def batch(self, epoch: int, index: int) -> HeadBatch:
        members = self.members(epoch, index)
        rng = random.Random(f"{self.settings.seed}:{epoch}:{index}")
        views = [rng.randrange(len(self.features)) for _ in members]
        given = gather(self.features, views, [self.pictures[i].row for i in members], self.device)
        drawn = [
            rng.sample(self._rows[i], min(self.settings.captions, len(self._rows[i]))) for i in members
        ]
        # A caption that several pictures have is drawn once, and right for each of them.
        rows = torch.tensor(list(dict.fromkeys(row for some in drawn for row in some)))
        own = [set(self._rows[i]) for i in members]
        positives = torch.tensor([[int(row) in some for row in rows] for some in own])
        return HeadBatch(given, rows.to(self.device), positives.to(self.device))


class HeadObjective(nn.Module):
    """table: sentence features of every text, Float[T, W]; `scales` and `biases` are of the two terms."""

    table: Tensor

    def __init__(self, model: XAttnModel, table: Float[Tensor, "T W"], settings: Settings) -> None:
        super().__init__()
        vision, text = towers_of(model)
        self.fusion, self.head, self.attention = vision.fusion, text.head, model.attention
        self.log_scales = nn.Parameter(torch.full((2,), SCALES[0]).log())
        self.biases = nn.Parameter(torch.zeros(2))
        self.register_buffer("table", table, persistent=False)
        self.max_scale = settings.max_scale
        self.kind = cast(Kind, settings.loss)
        self.biases.requires_grad_(self.kind == "sigmoid")

    def forward(self, batch: HeadBatch) -> PairLoss:
        regions, pooled = batch.given.fused(self.fusion)
        texts = self.head(self.table[batch.rows])
        pairs = Pairs(regions, pooled, texts, batch.positives, batch.given.mask)
        scales = self.log_scales.exp().clamp(max=self.max_scale)
        return all_pairs_loss(self.attention, pairs, scales, self.biases, kind=self.kind)

    @torch.no_grad()
    def set_scales(self, batch: HeadBatch) -> None:
        """Starts scales and biases where the model as it is matches best (Platt 1999), so that the first
        steps improve the model and do not repair the loss."""
        regions, pooled = batch.given.fused(self.fusion)
        texts = self.head(self.table[batch.rows])
        cosines = (pooled @ texts.T, self.attention.cosine(regions, texts, batch.given.mask))
        matched = batch.positives.cpu().numpy().ravel()
        if matched.all():
            return
        for term, cosine in enumerate(cosines):
            values = cosine.cpu().double().numpy().ravel()
            scale, bias = fit_platt(values, matched, float(matched.mean()))
            self.log_scales[term] = torch.tensor(min(max(scale, SCALES[0]), SCALES[1])).log()
            if self.biases.requires_grad:
                self.biases[term] = bias

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer changes."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)


def optimizer_of(objective: HeadObjective, settings: Settings) -> torch.optim.AdamW:
    """Weights decay; norms, biases and temperatures do not."""
    named = list(objective.trained())
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
