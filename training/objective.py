"""What the recipe minimises: photos and texts matched over all pairs, attention held to boxes, texts with a
wrong attribute below right ones in the same photo."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from training.batches import Batch
from training.recipe import Recipe
from xattn.attention import CrossAttention, attention_weights
from xattn.losses import box_attention, info_nce, presence_logits

TERMS = ("attended", "joint", "pooled", "phrases")
NEVER = -1e4
"""Logit of a pair that is left out: no softmax gives it a share."""
SMALL_AREA = 0.05
"""Share of a photo. The loss of a phrase's boxes weighs √(SMALL_AREA / area), within the next bounds."""
MIN_IMPORTANCE, MAX_IMPORTANCE = 0.5, 3.0


@dataclass(frozen=True, slots=True)
class Pairs:
    """T texts, each with one photo: cosine of what attention reads, logit of presence, weights."""

    cosine: Float[Tensor, " T"]
    presence: Float[Tensor, " T"]
    weights: Float[Tensor, "T K R"]


class Objective(nn.Module):
    """The losses of one batch. log_scales: of each of TERMS, the logarithm of its temperature's inverse."""

    def __init__(self, attention: CrossAttention, recipe: Recipe) -> None:
        super().__init__()
        self.attention = attention
        self.recipe = recipe
        self.log_scales = nn.Parameter(torch.full((len(TERMS),), 3.0))

    def forward(
        self,
        batch: Batch,
        regions: Float[Tensor, "B R D"],
        pooled: Float[Tensor, "B D"],
        texts: Float[Tensor, "N D"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Each loss with its weight; their sum is minimised. texts: embeddings of `batch.texts`."""
        r = self.recipe
        num_main = batch.num_captions + batch.num_phrases
        captions, phrases = slice(batch.num_captions), slice(batch.num_captions, num_main)
        output, null_weight = self.attention.read(regions, texts[:num_main])
        attended = torch.einsum("bnd,nd->bn", F.normalize(output, dim=-1), texts[:num_main])
        presence = presence_logits(null_weight)
        cosine = pooled @ texts[:num_main].T
        scales = self.log_scales.exp().clamp(max=r.max_scale)

        def matched(logits: Tensor, part: slice) -> Float[Tensor, ""]:
            known = logits[:, part].masked_fill(batch.unknown[:, part], NEVER)
            return info_nce(known, batch.matches[:, part])

        joint = (attended + cosine) / 2
        pairs = self._pairs(batch, regions, texts, slice(batch.num_captions, None))
        return {
            "attended": r.attended_weight * matched(scales[0] * attended, captions),
            "joint": r.joint_weight * matched(scales[1] * joint, captions),
            "pooled": r.pooled_loss_weight * matched(scales[2] * cosine, captions),
            "presence": r.presence_weight * matched(presence, captions),
            "phrases": r.phrase_weight * matched(scales[3] * attended, phrases),
            "phrase_presence": r.phrase_presence_weight * matched(presence, phrases),
            "boxes": r.box_weight * self._boxes(batch, pairs),
            **self._wrong(batch, pairs, attended, cosine, presence, pooled, texts),
        }

    def _pairs(self, batch: Batch, regions: Tensor, texts: Tensor, part: slice) -> Pairs:
        """Texts of `part`, each with its own photo."""
        owners, asked = batch.owners[part], texts[part]
        query = self.attention.project_texts(asked)
        key, value = self.attention.project_regions(regions)
        logits = torch.einsum("tkd,tkrd->tkr", query, key[owners])
        null_logits = torch.einsum("tkd,kd->tk", query, self.attention.null_key)
        weights, null_weight = attention_weights(logits, None, null_logits)
        read = torch.einsum("tkr,tkrd->tkd", weights, value[owners])
        read = read + null_weight[..., None] * self.attention.null_value
        output = F.normalize(self.attention.out(read.flatten(-2)), dim=-1)
        return Pairs((output * asked).sum(-1), presence_logits(null_weight[None])[0], weights)

    def _boxes(self, batch: Batch, pairs: Pairs) -> Float[Tensor, ""]:
        importance = (SMALL_AREA / batch.area.clamp(min=1e-4)).sqrt().clamp(MIN_IMPORTANCE, MAX_IMPORTANCE)
        weights = pairs.weights[: batch.num_phrases]
        return box_attention(weights, batch.cover, self.recipe.evenness, importance)

    def _wrong(
        self,
        batch: Batch,
        pairs: Pairs,
        attended: Float[Tensor, "B M"],
        cosine: Float[Tensor, "B M"],
        presence: Float[Tensor, "B M"],
        pooled: Float[Tensor, "B D"],
        texts: Float[Tensor, "N D"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Texts with an attribute exchanged, below the true ones by each part of the score and by presence;
        and absent categories, whose attention belongs to null."""
        r = self.recipe
        first = batch.num_captions + batch.num_phrases
        is_swap = batch.swap_of >= 0
        owners = batch.owners[first:]
        wrong_attended = pairs.cosine[batch.num_phrases :]
        wrong_presence = pairs.presence[batch.num_phrases :]
        wrong_cosine = (pooled[owners] * texts[first:]).sum(-1)
        right = (owners[is_swap], batch.swap_of[is_swap])

        def below(right_values: Tensor, wrong_values: Tensor, scale: float) -> Float[Tensor, ""]:
            return _mean(F.softplus((wrong_values[is_swap] - right_values[right]) * scale))

        joint = below((attended + cosine) / 2, (wrong_attended + wrong_cosine) / 2, r.swap_scale)
        there = pairs.presence[: batch.num_phrases]
        absent = _mean(F.softplus(wrong_presence[~is_swap])) + _mean(F.softplus(-there))
        return {
            "swaps": r.swap_weight * (below(attended, wrong_attended, r.swap_scale) + joint),
            "swap_presence": r.swap_presence_weight * below(presence, wrong_presence, 1.0),
            "absent": r.absent_weight * absent,
        }


def _mean(values: Tensor) -> Float[Tensor, ""]:
    return values.mean() if values.numel() else values.sum()


def total(losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """Their sum. Raises ValueError for no loss at all."""
    if not losses:
        raise ValueError("expected at least one loss")
    return torch.stack(list(losses.values())).sum()


def learning_rate_share(step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then half a cosine to zero; of the full rate."""
    return (
        min(1.0, (step + 1) / max(1, warmup_steps))
        * 0.5
        * (1 + math.cos(math.pi * step / max(1, num_steps)))
    )
