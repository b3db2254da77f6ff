"""Matching over every picture × every caption of a batch, by the pooled vector and by what a text reads.

    pooled[b, n]   = scale_0 · (pooled_b · t_n)                    + bias_0
    attended[b, n] = scale_1 · cos(what t_n reads in picture b, t_n) + bias_1

Each term is a sigmoid loss (SigLIP, Zhai et al. 2023) or an InfoNCE loss over these logits. The attended
term depends on the pair as a whole, so all of its B·N outputs of width D, and all of its attention, would
have to be held for the backward pass. FLAIR (Xiao et al. 2025), the nearest published method, therefore
draws one caption of each other picture. Here the pairs are walked tile by tile instead, and each tile is
taken back at once: no pair is left out, and memory holds one tile. K and V are projected once per
picture, q once per text; InfoNCE, whose softmax spans all tiles, walks twice and projects twice.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from xattn.attention import CrossAttention
from xattn.losses.gather import Group, world_size
from xattn.losses.pairs import TILE, Extent, Kind, PairLoss, Pairs
from xattn.losses.terms import info_nce, sigmoid_pairs
from xattn.losses.tiled import Tiled, Walk


def all_pairs_loss(
    attention: CrossAttention,
    pairs: Pairs,
    scales: Float[Tensor, " 2"],
    biases: Float[Tensor, " 2"],
    *,
    kind: Kind = "sigmoid",
    weights: tuple[float, float] = (1.0, 1.0),
    tile: Extent | None = TILE,
    group: Group | None = None,
) -> PairLoss:
    """The loss over all B·N pairs: exact, whatever the tile.

    scales, biases: of the pooled and the attended logits; InfoNCE does not depend on biases
    tile:  memory grows with its product; None holds everything, by plain autograd
    group: processes that share the batch, each with its own pictures and the captions of all
    Gradients reach regions, pooled, texts, scales, biases and the attention's parameters, once: there
    is no second derivative through tiles.
    """
    if tile is None:
        return _untiled(attention, pairs, scales, biases, kind, weights, group)
    if min(tile) < 1:
        raise ValueError(f"tile: expected at least one picture and one text, got {tile}")
    parameters = [p for p in attention.parameters() if p.requires_grad]
    given = (pairs.regions, pairs.pooled, pairs.texts, scales, biases)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (*given, *parameters))
    walk = Walk(attention, pairs, kind, weights, tile, group, parameters, wanted)
    total, pooled, attended = Tiled.apply(walk, *given, *parameters)
    return PairLoss(total, pooled, attended)


def _untiled(
    attention: CrossAttention,
    pairs: Pairs,
    scales: Tensor,
    biases: Tensor,
    kind: Kind,
    weights: tuple[float, float],
    group: Group | None,
) -> PairLoss:
    if world_size(group) > 1:
        raise ValueError("without tiles the loss is for one process only: give a tile")
    cosines = (pairs.pooled @ pairs.texts.T, attention.cosine(pairs.regions, pairs.texts, pairs.mask))
    terms = []
    for cosine, scale, bias in zip(cosines, scales, biases, strict=True):
        logits = scale * cosine + bias
        if kind == "sigmoid":
            terms.append(sigmoid_pairs(logits, pairs.positives, pairs.valid))
        else:
            if pairs.valid is not None:
                logits = logits.masked_fill(~pairs.valid, torch.finfo(logits.dtype).min)
            terms.append(info_nce(logits, pairs.positives))
    total = weights[0] * terms[0] + weights[1] * terms[1]
    return PairLoss(total, terms[0].detach(), terms[1].detach())
