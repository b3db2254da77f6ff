"""Text-query cross-attention: a text asks, the regions of a picture answer.

Scaled dot-product attention (Vaswani et al. 2017, section 3.2) with one query per text and a learned
*null* key and value, so that a text about something absent can attend to nothing:

    q = W_q LN(t)      k_r = W_k LN(x_r)      v_r = W_v LN(x_r)           (per head)
    weights = softmax over r of (q·k_null, q·k_1, …, q·k_R) / √d_head     (float32)
    output  = W_o concat_heads(w_null v_null + Σ_r w_r v_r)
    cosine  = cos(output, t)

Nothing after the softmax is nonlinear except the division by |output|, and no projection has a bias.
So the cosine is a sum with one addend per region and one for null (`explain`): evidence, not a picture
painted afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Attended:
    """What N texts read from B pictures.

    output:      Float[B N D], not normalised
    weights:     Float[B N K R], float32, zero on padding; weights.sum(-1) + null_weight == 1
    null_weight: Float[B N K], float32
    """

    output: Float[Tensor, "B N D"]
    weights: Float[Tensor, "B N K R"]
    null_weight: Float[Tensor, "B N K"]


@dataclass(frozen=True, slots=True)
class Explained:
    """The cosine of output and text, taken apart: contributions.sum(-1) + null_contribution == cosine.

    weights:           Float[B N R], mean over heads; weights.sum(-1) + null_weight == 1
    null_weight:       Float[B N]
    contributions:     Float[B N R]
    null_contribution: Float[B N]
    cosine:            Float[B N]
    """

    weights: Float[Tensor, "B N R"]
    null_weight: Float[Tensor, "B N"]
    contributions: Float[Tensor, "B N R"]
    null_contribution: Float[Tensor, "B N"]
    cosine: Float[Tensor, "B N"]


def attention_weights(
    logits: Float[Tensor, "*batch R"],
    mask: Bool[Tensor, "*#batch R"] | None = None,
    null_logits: Float[Tensor, "*batch"] | None = None,
) -> tuple[Float[Tensor, "*batch R"], Float[Tensor, "*batch"]]:
    """Softmax over the last axis, in float32 (in float64 where that is given).

    logits: q·k/√d_head; mask: True = valid, broadcast against logits; null_logits: one more candidate,
    which no mask hides. Returns (weights, null_weight) with weights.sum(-1) + null_weight == 1 and
    weights 0 wherever the mask is False. Where nothing at all is valid null_weight is 1, never NaN.
    """
    precision = torch.promote_types(logits.dtype, torch.float32)
    logits = logits.to(precision)
    lowest = torch.finfo(logits.dtype).min
    if mask is not None:
        logits = logits.masked_fill(~mask, lowest)
    if null_logits is None:
        null_logits = logits.new_full(logits.shape[:-1], lowest)
    full = torch.cat([logits, null_logits.to(precision)[..., None]], -1).softmax(-1)
    weights, null_weight = full[..., :-1], full[..., -1]
    if mask is not None:
        # Not zero already only where all candidates share the lowest logit, that is, none is valid.
        null_weight = null_weight + weights.masked_fill(mask, 0.0).sum(-1)
        weights = weights.masked_fill(~mask, 0.0)
    return weights, null_weight


_LANES = 8
"""Columns added to keys and values for the weight of null, a multiple of what fused kernels want."""


class UnitNorm(nn.Module):
    """Division by the Euclidean norm; zero stays zero."""

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return F.normalize(x, dim=-1)


class CrossAttention(nn.Module):
    """Multi-head text-query cross-attention over region features.

    dim: width D of regions and texts; num_heads: K, must divide dim; norm: LN in the formulas is layer
    normalisation, or division by the norm ("unit") where regions and texts share a space by cosine.
    `forward` is for training: K and V are projected once per picture, q once per text, and every text
    meets every picture. `explain` is for search: few texts meet many pictures, so the projections are
    applied to the texts instead (W_kᵀq · x = q · W_k x), which saves the 2·R·D² per picture that
    projecting its regions would cost, and yields every addend of the cosine. Both give the same result.
    """

    def __init__(self, dim: int, num_heads: int, norm: str = "layer") -> None:
        super().__init__()
        if norm not in ("layer", "unit"):
            raise ValueError(f"unknown norm {norm!r}; valid are layer, unit")
        if dim % num_heads:
            raise ValueError(f"num_heads must divide dim: expected a divisor of {dim}, got {num_heads}")
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.norm = norm
        self.text_norm = nn.LayerNorm(dim) if norm == "layer" else UnitNorm()
        self.region_norm = nn.LayerNorm(dim) if norm == "layer" else UnitNorm()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.null_key = nn.Parameter(torch.zeros(num_heads, self.head_dim))
        self.null_value = nn.Parameter(torch.zeros(num_heads, self.head_dim))

    @classmethod
    def identity(cls, dim: int, temperature: float) -> CrossAttention:
        """For towers whose regions and texts are aligned already: one head that attends by their cosine.

        weights = softmax over r of temperature · cos(t, x_r), and null at cosine 0; the output is the mean
        of the unit-norm regions so weighted. Training goes on from there.
        """
        attention = cls(dim, num_heads=1, norm="unit")
        with torch.no_grad():
            for layer in (attention.query, attention.key, attention.value, attention.out):
                layer.weight.copy_(torch.eye(dim))
            attention.query.weight *= temperature * attention.head_dim**0.5
        return attention

    def project_texts(self, texts: Float[Tensor, "N D"]) -> Float[Tensor, "N K d"]:
        """One query per text and head, already divided by √d_head."""
        query = self.query(self.text_norm(texts)).unflatten(-1, (self.num_heads, self.head_dim))
        return query * self.head_dim**-0.5

    def project_regions(
        self, regions: Float[Tensor, "B R D"]
    ) -> tuple[Float[Tensor, "B K R d"], Float[Tensor, "B K R d"]]:
        """Keys and values of every region and head."""
        normed = self.region_norm(regions)
        shape = (self.num_heads, self.head_dim)
        key = self.key(normed).unflatten(-1, shape).transpose(1, 2)
        value = self.value(normed).unflatten(-1, shape).transpose(1, 2)
        return key, value

    def forward(
        self,
        regions: Float[Tensor, "B R D"],
        texts: Float[Tensor, "N D"],
        mask: Bool[Tensor, "B R"] | None = None,
    ) -> Attended:
        """Every text reads every picture."""
        return self.attend(self.project_texts(texts), *self.project_regions(regions), mask)

    def attend(
        self,
        query: Float[Tensor, "N K d"],
        key: Float[Tensor, "B K R d"],
        value: Float[Tensor, "B K R d"],
        mask: Bool[Tensor, "B R"] | None = None,
    ) -> Attended:
        """The same from what `project_texts` and `project_regions` have returned."""
        logits = torch.einsum("nkd,bkrd->bnkr", query, key)
        null_logits = torch.einsum("nkd,kd->nk", query, self.null_key).expand(logits.shape[:-1])
        valid = None if mask is None else mask[:, None, None, :]
        weights, null_weight = attention_weights(logits, valid, null_logits)
        read = torch.einsum("bnkr,bkrd->bnkd", weights.to(value.dtype), value)
        read = read + null_weight.to(value.dtype)[..., None] * self.null_value
        return Attended(self.out(read.flatten(-2)), weights, null_weight)

    def read(
        self, regions: Float[Tensor, "B R D"], texts: Float[Tensor, "N D"]
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N K"]]:
        """(output, null_weight) of `forward` without its weights, which are never in memory.

        The null key is one more candidate of PyTorch's fused attention, and one more column of the values,
        which is 1 for null and 0 for regions, carries its weight out. Regions have no padding.
        """
        query = self.project_texts(texts).transpose(0, 1)
        key, value = self.project_regions(regions)
        batch, heads, _, width = key.shape
        null_key = self.null_key[:, None].expand(batch, heads, 1, width)
        null_value = self.null_value[:, None].expand(batch, heads, 1, width)
        is_null = torch.zeros(key.shape[2] + 1, _LANES, device=key.device, dtype=key.dtype)
        is_null[-1, 0] = 1.0
        values = torch.cat([value, null_value], 2)
        values = torch.cat([values, is_null.expand(batch, heads, -1, -1)], -1)
        result = F.scaled_dot_product_attention(
            F.pad(query, (0, _LANES)).expand(batch, -1, -1, -1),
            F.pad(torch.cat([key, null_key], 2), (0, _LANES)),
            values,
            scale=1.0,
        )
        output, null_weight = result[..., :width], result[..., width]
        return self.out(output.transpose(1, 2).flatten(-2)), null_weight.transpose(1, 2)

    def cosine(
        self,
        regions: Float[Tensor, "B R D"],
        texts: Float[Tensor, "N D"],
        mask: Bool[Tensor, "B R"] | None = None,
    ) -> Float[Tensor, "B N"]:
        """Cosine of what each text read and the text itself; texts have unit norm."""
        output = self(regions, texts, mask).output
        return torch.einsum("bnd,nd->bn", F.normalize(output, dim=-1), texts)

    def explain(
        self,
        regions: Float[Tensor, "B R D"],
        texts: Float[Tensor, "N D"],
        mask: Bool[Tensor, "B R"] | None = None,
    ) -> Explained:
        """The cosine with all its addends, projecting texts instead of regions; texts have unit norm."""
        heads = (self.num_heads, self.head_dim)
        query = self.project_texts(texts)
        target = (texts @ self.out.weight).unflatten(-1, heads)
        # Two probes per text and head, in the space of the normed regions: one finds, one rates.
        key_probe = torch.einsum("nkd,kdi->nki", query, self.key.weight.unflatten(0, heads))
        value_probe = torch.einsum("nkd,kdi->nki", target, self.value.weight.unflatten(0, heads))
        normed = self.region_norm(regions)
        probes = torch.cat([key_probe, value_probe]).flatten(0, 1)
        answers = (normed @ probes.T).transpose(1, 2).unflatten(1, (2, len(texts), self.num_heads))
        logits, ratings = answers.unbind(1)
        null_logits = torch.einsum("nkd,kd->nk", query, self.null_key).expand(logits.shape[:-1])
        valid = None if mask is None else mask[:, None, None, :]
        weights, null_weight = attention_weights(logits, valid, null_logits)

        read = (weights.flatten(1, 2) @ normed.float()).unflatten(1, (len(texts), self.num_heads))
        read = torch.einsum("bnki,kdi->bnkd", read, self.value.weight.float().unflatten(0, heads))
        read = read + null_weight[..., None] * self.null_value
        norm = self.out(read.flatten(-2)).norm(dim=-1).clamp(min=1e-12)

        contributions = (weights * ratings).sum(2) / norm[..., None]
        null_rating = torch.einsum("nkd,kd->nk", target, self.null_value)
        null_contribution = (null_weight * null_rating).sum(-1) / norm
        return Explained(
            weights=weights.mean(2),
            null_weight=null_weight.mean(2),
            contributions=contributions,
            null_contribution=null_contribution,
            cosine=contributions.sum(-1) + null_contribution,
        )
