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


def box_attention(weights: Float[Tensor, "P K R"], cover: Float[Tensor, "P R"]) -> Float[Tensor, ""]:
    """Asks each head to look into the boxes of what the text names.

        loss = mean over p, k of −log Σ_r weights[p, k, r] · cover[p, r]

    P pairs of a picture and a text found in it; weights: after softmax, null excluded; cover: the share
    of region r inside the text's boxes, in [0, 1]. Where in the boxes a head looks is its own choice.
    """
    inside = torch.einsum("pkr,pr->pk", weights, cover)
    return _mean(-inside.clamp(min=SMALLEST_WEIGHT).log())


def absent_attention(null_weights: Float[Tensor, "P K"]) -> Float[Tensor, ""]:
    """Asks each head to attend to nothing when the picture lacks what the text names.

    loss = mean over p, k of −log null_weights[p, k], for P pairs of a picture and a text absent from it.
    """
    return _mean(-null_weights.clamp(min=SMALLEST_WEIGHT).log())


def _mean(values: Tensor) -> Float[Tensor, ""]:
    return values.mean() if values.numel() else values.sum()
