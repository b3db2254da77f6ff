"""What training minimises: matching over all pairs, attention held to boxes, null for what is absent.

Pure functions of scores and weights. An empty selection costs 0, so a batch without boxes needs no special
case.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SMALLEST_WEIGHT = 1e-6
"""Attention below this costs no more: the logarithm of 0 would end the training."""


def info_nce(logits: Float[Tensor, "B N"], positives: Bool[Tensor, "B N"]) -> Float[Tensor, ""]:
    """Symmetric InfoNCE (van den Oord et al. 2018) over all pairs, with any number of positives.

        loss       = (pictures + texts) / 2
        pictures   = mean over b of  −mean over n in P(b) of  log softmax_n(logits[b, n])
        texts      = mean over n of  −mean over b in P(n) of  log softmax_b(logits[b, n])

    logits: scale · cosine; P(·): where `positives` is True. A row or column without a positive is no
    question, only a wrong answer to the others: it is left out of the mean.
    """
    return (_one_way(logits, positives) + _one_way(logits.T, positives.T)) / 2


def _one_way(logits: Float[Tensor, "B N"], positives: Bool[Tensor, "B N"]) -> Float[Tensor, ""]:
    asked = positives.any(1)
    precise = logits[asked].to(torch.promote_types(logits.dtype, torch.float32))
    log_shares = precise.log_softmax(1).masked_fill(~positives[asked], 0.0)
    return _mean(-log_shares.sum(1) / positives[asked].sum(1))


def sigmoid_pairs(
    logits: Float[Tensor, "B N"], positives: Bool[Tensor, "B N"], valid: Bool[Tensor, "B N"] | None = None
) -> Float[Tensor, ""]:
    """Sigmoid loss (SigLIP, Zhai et al. 2023) over all pairs, with any number of positives.

        loss = −(1/N) Σ over b, n of log σ(logits[b, n] where positive, else −logits[b, n])

    logits: scale · cosine + bias; N: the texts; valid: False for pairs that are left out of the sum. With
    one text a picture this is SigLIP's, divided by the number of pictures.
    """
    signs = positives.to(logits.dtype) * 2 - 1
    costs = torch.nn.functional.softplus(-signs * logits)
    if valid is not None:
        costs = costs.masked_fill(~valid, 0.0)
    return costs.sum() / max(1, logits.shape[1])


def box_attention(
    weights: Float[Tensor, "P K R"],
    cover: Float[Tensor, "P R"],
    evenness: float = 0.0,
    importance: Float[Tensor, " P"] | None = None,
) -> Float[Tensor, ""]:
    """Asks each head to look into the boxes of what the text names, and to look at all of them.

        loss   = mean over p, k of (1 − evenness) · −log Σ_r weights[p, k, r] · cover[p, r]
                                 + evenness · KL(filled[p] ‖ weights[p, k])
        filled = cover[p] / Σ_r cover[p, r]

    P pairs of a picture and a text found in it; weights: after softmax, null excluded; cover: the share
    of region r inside the text's boxes, in [0, 1]. With evenness 0 a head may look at one point in the
    boxes, with 1 it is held to them like a segmentation. No row of cover may be zero. importance: a factor
    for each pair, such as a larger one for small boxes.
    """
    inside = torch.einsum("pkr,pr->pk", weights, cover).clamp(min=SMALLEST_WEIGHT).log()
    filled = cover / cover.sum(-1, keepdim=True)
    entropy = torch.special.entr(filled).sum(-1)
    crossed = torch.einsum("pkr,pr->pk", weights.clamp(min=SMALLEST_WEIGHT).log(), filled)
    losses = (evenness - 1) * inside - evenness * (crossed + entropy[:, None])
    return _mean(losses if importance is None else losses * importance[:, None])


def absent_attention(null_weights: Float[Tensor, "P K"]) -> Float[Tensor, ""]:
    """Asks each head to attend to nothing when the picture lacks what the text names.

    loss = mean over p, k of −log null_weights[p, k], for P pairs of a picture and a text absent from it.
    """
    return _mean(-null_weights.clamp(min=SMALLEST_WEIGHT).log())


def presence_logits(null_weights: Float[Tensor, "B N K"]) -> Float[Tensor, "B N"]:
    """log((1 − null) / null), mean over heads: how much more a text attends to a picture than to null.

    It is logsumexp over regions of q·k, less q·k_null: as logits of `info_nce` it teaches the keys to
    answer the texts of their own picture, which plain weights, normalised within each picture, do not.
    """
    return -null_weights.float().clamp(SMALLEST_WEIGHT, 1 - SMALLEST_WEIGHT).logit().mean(-1)


def _mean(values: Tensor) -> Float[Tensor, ""]:
    return values.mean() if values.numel() else values.sum()
