"""The training loop: fusion, text head and cross-attention on the features of frozen towers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.batches import Batch, Sampler
from training.recipes import Recipe
from xattn.attention import CrossAttention, attention_weights
from xattn.encoders.fusion import Fusion
from xattn.encoders.text import SentenceEncoder, TextHead
from xattn.encoders.vision import HybridEncoder
from xattn.errors import DataError
from xattn.losses import absent_attention, box_attention, info_nce, presence_logits
from xattn.model import XAttnModel

FINAL_RATE = 1e-3
"""What is left of the learning rate at the end."""
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Losses:
    """The addends of one step's loss, before their weights.

    pooled, attended, joint: InfoNCE over the cosines of stage 1, of the cross-attention, and over their
    mean; presence: InfoNCE over how little attention goes to null; boxes, absent:
    where the attention of phrases and categories lies.
    """

    pooled: Float[Tensor, ""]
    attended: Float[Tensor, ""]
    joint: Float[Tensor, ""]
    presence: Float[Tensor, ""]
    boxes: Float[Tensor, ""]
    absent: Float[Tensor, ""]

    def total(self, recipe: Recipe) -> Float[Tensor, ""]:
        contrastive = self.pooled + self.attended + recipe.joint_weight * self.joint
        contrastive = contrastive + recipe.presence_weight * self.presence
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
        self.log_scales = nn.Parameter(torch.full((3,), math.log(recipe.initial_scale)))
        self.register_buffer("table", table, persistent=False)

    def forward(self, batch: Batch) -> Losses:
        given = batch.pictures
        regions, pooled = given.fused(self.fusion)
        used = batch.present | batch.absent
        rows = torch.cat([batch.captions, batch.texts[used]])
        captions, held = self.head(self.table[rows]).split([len(batch.captions), int(used.sum())])

        scales = self.log_scales.exp().clamp(max=self.max_scale)
        matches = batch.owners == torch.arange(len(pooled), device=batch.owners.device)[:, None]
        read = self.attention(regions, captions, given.mask)
        attended = torch.einsum("bnd,nd->bn", F.normalize(read.output, dim=-1), captions)
        cosines = pooled @ captions.T
        joint = (cosines + attended) / 2
        weights, null_weights = self._own_weights(regions, given.mask, batch, held)
        return Losses(
            pooled=info_nce(scales[0] * cosines, matches),
            attended=info_nce(scales[1] * attended, matches),
            joint=info_nce(scales[2] * joint, matches),
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
    model: XAttnModel,
    table: Float[Tensor, "N W"],
    sampler: Sampler,
    recipe: Recipe,
    log: Callable[[dict[str, float]], None],
) -> None:
    """Trains the model in place and leaves it in eval mode, with the running mean of its weights.

    table: sentence features, rows as in the sampler's text_rows; log: called after every step with
    `step`, `epoch`, `steps`, `rate`, `loss`, its six addends and the three `scale`s.
    Raises DataError if the loss is no longer a number.
    """
    vision, text = model.vision, model.text
    if not isinstance(vision, HybridEncoder) or not isinstance(text, SentenceEncoder):
        raise TypeError("only models made of HybridEncoder and SentenceEncoder can be trained so far")
    steps = recipe.epochs * sampler.steps_per_epoch
    objective = Objective(vision.fusion, text.head, model.attention, table, recipe).to(model.device)
    optimizer = _optimizer(objective, recipe)
    schedule = LambdaLR(optimizer, lambda step: _rate(step, steps, recipe.warmup_steps))
    mean = AveragedModel(objective, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging))
    objective.train()
    for step, (epoch, batch) in enumerate(_batches(sampler, recipe.epochs), 1):
        losses = objective(batch)
        loss = losses.total(recipe)
        if not loss.isfinite():
            raise DataError(f"the loss is {loss.item()} at step {step}; lower the learning rate")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), MAX_GRADIENT_NORM)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        mean.update_parameters(objective)
        scales = dict(
            zip(
                ("pooled_scale", "attended_scale", "joint_scale"),
                objective.log_scales.exp().tolist(),
                strict=True,
            )
        )
        addends = {name: value.item() for name, value in _fields(losses)}
        log(
            {"step": step, "steps": steps, "epoch": epoch, "rate": rate, "loss": loss.item()}
            | addends
            | scales
        )
    objective.load_state_dict(mean.module.state_dict())
    model.eval()


def _fields(losses: Losses) -> Iterator[tuple[str, Tensor]]:
    for name in ("pooled", "attended", "joint", "presence", "boxes", "absent"):
        yield name, getattr(losses, name).detach()


def _batches(sampler: Sampler, epochs: int) -> Iterator[tuple[int, Batch]]:
    for epoch in range(1, epochs + 1):
        for batch in sampler.epoch():
            yield epoch, batch


def _optimizer(objective: Objective, recipe: Recipe) -> torch.optim.AdamW:
    """Weights decay; norms, biases and temperatures do not."""
    named = dict(objective.named_parameters())
    free = [p for name, p in named.items() if p.ndim < 2]
    decayed = [p for name, p in named.items() if p.ndim >= 2]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def _rate(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the learning rate: a linear rise times half a cosine."""
    rise = min(1.0, (step + 1) / max(1, warmup_steps))
    return rise * (0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))) + FINAL_RATE)
