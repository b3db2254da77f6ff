"""Scores of many pictures with many texts, by each stage alone and combined, in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xattn.evaluation.encoding import EncodedPictures
from xattn.model import XAttnModel
from xattn.types import RegionGrid

TEXTS_AT_ONCE = 512
"""Every picture meets these texts before the next ones come: three score matrices of M x 512."""
PICTURES_AT_ONCE = 8
"""Their attention logits with TEXTS_AT_ONCE texts, 4 heads and 300 regions take 20 MB."""
ROUNDING = 1e-6
"""By how much a cosine may differ when computed in a batch of another shape."""


class Scores(NamedTuple):
    """pooled: stage 1; attention: the cross-attention; combined: `model.score`.

    The first two are cosines less the hubness.
    """

    pooled: Float[np.ndarray, ...]
    attention: Float[np.ndarray, ...]
    combined: Float[np.ndarray, ...]


def encode_texts(model: XAttnModel, texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """Unit-norm embeddings, in batches."""
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    parts = [model.encode_texts(texts[start : start + TEXTS_AT_ONCE]) for start in starts]
    return torch.cat([torch.zeros(0, model.dim, device=model.device), *parts])


@torch.inference_mode()
def score_pairs(model: XAttnModel, images: RegionGrid, texts: Float[Tensor, "N D"]) -> Scores:
    """Float32 [B N]. `model.score` gives the same combination, but prepares each text, not each picture:
    with as many texts as here this is many times faster."""
    attention = model.attention.cosine(images.regions, texts, images.mask)
    pooled = images.pooled @ texts.T
    hubness = model.hubness(images.pooled, texts)
    combined = model.combine(attention, pooled, hubness)
    found = (pooled - hubness, attention - hubness, combined)
    return Scores(*(scores.float().cpu().numpy() for scores in found))


def score_blocks(
    model: XAttnModel, encoded: EncodedPictures, texts: Float[Tensor, "N D"]
) -> Iterator[tuple[slice, Scores]]:
    """For each block of texts, its scores with all M pictures, [M b]."""
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        block = slice(start, min(start + TEXTS_AT_ONCE, len(texts)))
        parts = [
            score_pairs(model, encoded.grids(pictures), texts[block]) for pictures in _chunks(len(encoded))
        ]
        yield block, Scores(*(np.concatenate(rows) for rows in zip(*parts, strict=True)))


def own_scores(
    model: XAttnModel,
    encoded: EncodedPictures,
    texts: Float[Tensor, "N D"],
    owners: Int[np.ndarray, " N"],
) -> Scores:
    """Scores of each text with the picture it belongs to, [N]. owners: ascending."""
    found = Scores(*(np.empty(len(texts), np.float32) for _ in Scores._fields))
    for pictures in _chunks(len(encoded)):
        first, last = np.searchsorted(owners, (pictures.start, pictures.stop))
        if first == last:
            continue
        block = score_pairs(model, encoded.grids(pictures), texts[first:last])
        rows = owners[first:last] - pictures.start
        for own, scores in zip(found, block, strict=True):
            own[first:last] = scores[rows, np.arange(last - first)]
    return found


def _chunks(num_pictures: int) -> Iterator[range]:
    for start in range(0, num_pictures, PICTURES_AT_ONCE):
        yield range(start, min(start + PICTURES_AT_ONCE, num_pictures))
