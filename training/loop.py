"""The training loop: fusion, text head and cross-attention on the features of frozen towers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from training.batches import Batch, Sampler
from training.distil import Asked, Teachers, copy_loss
from training.fit import OnStep, fit
from training.recipes import Recipe
from xattn.attention import CrossAttention, attention_weights
from xattn.encoders.hybrid.fusion import Fusion
from xattn.encoders.hybrid.text import TextHead
from xattn.losses import absent_attention, box_attention, info_nce, presence_logits


@dataclass(frozen=True, slots=True)
class Losses:
    """The addends of one step's loss, before their weights.

    copied: how far the pooled cosines are from the teachers' (training.distil); attended, joint: InfoNCE
    over the cosines of the cross-attention, and over their mean with the teachers'; presence: InfoNCE over
    how little attention goes to null; boxes, absent: where the attention of phrases and categories lies.
    """

    copied: Float[Tensor, ""]
    attended: Float[Tensor, ""]
    joint: Float[Tensor, ""]
    presence: Float[Tensor, ""]
    boxes: Float[Tensor, ""]
    absent: Float[Tensor, ""]

    def total(self, recipe: Recipe) -> Float[Tensor, ""]:
        contrastive = self.attended + recipe.joint_weight * self.joint
        contrastive = contrastive + recipe.presence_weight * self.presence
        contrastive = contrastive + recipe.copy_weight * self.copied
        return contrastive + recipe.box_weight * self.boxes + recipe.absent_weight * self.absent


class Objective(nn.Module):
    """What is trained, and what it is trained for. table: sentence features of every text."""

    table: Tensor

    def __init__(
        self,
        fusion: Fusion,
        head: TextHead,
        attention: CrossAttention,
        table: Float[Tensor, "N W"],
        recipe: Recipe,
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.head = head
        self.attention = attention
        self.max_scale = recipe.max_scale
        self.evenness = recipe.evenness
        # One temperature for each contrastive term, as its logarithm.
        self.log_scales = nn.Parameter(torch.full((2,), math.log(recipe.initial_scale)))
        self.register_buffer("table", table, persistent=False)

    def forward(self, batch: Batch, asked: Asked, teachers: Teachers) -> Losses:
        given = batch.pictures
        regions = self.fusion.regions(given.features, given.resample)
        used = batch.present | batch.absent
        rows = torch.cat([batch.captions, batch.texts[used]])
        captions, held = self.head(self.table[rows]).split([len(batch.captions), int(used.sum())])

        scales = self.log_scales.exp().clamp(max=self.max_scale)
        matches = batch.owners == torch.arange(len(regions), device=batch.owners.device)[:, None]
        read = self.attention(regions, captions, given.mask)
        attended = torch.einsum("bnd,nd->bn", F.normalize(read.output, dim=-1), captions)
        # The second stage learns what the first gets wrong. On pictures that it was trained on the first
        # gets nothing wrong, so teachers are asked who never saw them.
        summary = self.fusion.pooling.summary(given.features, given.resample, given.mask)
        joint = (teachers.unseeing(summary, self.table[batch.captions], batch.rows) + attended) / 2
        weights, null_weights = self._own_weights(regions, given.mask, batch, held)
        return Losses(
            copied=copy_loss(self.fusion.pooling, self.head, teachers, asked, self.table),
            attended=info_nce(scales[0] * attended, matches),
            joint=info_nce(scales[1] * joint, matches),
            presence=info_nce(presence_logits(read.null_weight), matches),
            boxes=box_attention(weights[batch.present], batch.cover[batch.present], self.evenness),
            absent=absent_attention(null_weights[batch.absent]),
        )

    def _own_weights(
        self, regions: Tensor, mask: Tensor, batch: Batch, held: Float[Tensor, "P D"]
    ) -> tuple[Float[Tensor, "B M K R"], Float[Tensor, "B M K"]]:
        """Attention of each held text over its own picture only; meaningless on padding."""
        attention = self.attention
        query = held.new_zeros(*batch.texts.shape, attention.num_heads, attention.head_dim)
        query[batch.present | batch.absent] = attention.project_texts(held)
        key, _ = attention.project_regions(regions)
        logits = torch.einsum("bmkd,bkrd->bmkr", query, key)
        null_logits = torch.einsum("bmkd,kd->bmk", query, attention.null_key)
        return attention_weights(logits, mask[:, None, None, :], null_logits)


def train(
    objective: Objective,
    sampler: Sampler,
    asked: Iterator[Asked],
    teachers: Teachers,
    recipe: Recipe,
    log: OnStep,
) -> None:
    """Trains what the objective holds in place and leaves it in eval mode, with the running mean of its
    weights.

    asked: what the copy of the teachers is held to meanwhile, a batch a step; log: called after every step
    with `step`, `epoch`, `steps`, `rate`, `loss`, its addends and the `scale`s.
    Raises DataError if the loss is no longer a number.
    """

    def measure(batch: Batch) -> tuple[Tensor, dict[str, float]]:
        losses = objective(batch, next(asked), teachers)
        scales = objective.log_scales.exp().tolist()
        figures = {field.name: getattr(losses, field.name).item() for field in fields(losses)}
        return losses.total(recipe), figures | {"attended_scale": scales[0], "joint_scale": scales[1]}

    objective.train()
    # A copy is held to its teachers, and drops nothing (training.distil).
    objective.fusion.pooling.eval()
    objective.head.eval()
    steps = recipe.epochs * sampler.steps_per_epoch
    fit(objective, _batches(sampler, recipe.epochs), steps, measure, recipe, log)
    objective.eval()


def _batches(sampler: Sampler, epochs: int) -> Iterator[tuple[int, Batch]]:
    for epoch in range(1, epochs + 1):
        for batch in sampler.epoch():
            yield epoch, batch
