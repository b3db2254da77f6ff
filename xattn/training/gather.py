"""Features of the frozen towers → inputs of the fusion; texts → a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xattn.encoders.hybrid.fusion import Fusion, TowerFeatures, upsampling
from xattn.encoders.hybrid.text import SentenceEncoder
from xattn.encoders.hybrid.vision import SHAPES
from xattn.training.features import MAX_CELLS, MAX_REGIONS, ViewFeatures
from xattn.types import Size


@dataclass(frozen=True, slots=True)
class PictureFeatures:
    """The fusion's inputs for B pictures of any mix of shapes, padded with zeros; mask: True = real.

    sizes: (H, W) of each grid
    """

    features: TowerFeatures
    resample: Float[Tensor, "B R P"]
    mask: Bool[Tensor, "B R"]
    sizes: tuple[Size, ...]

    def fused(self, fusion: Fusion) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"]]:
        """(regions, pooled)"""
        return fusion(self.features, self.resample, self.mask)


@torch.inference_mode()
def text_table(text: SentenceEncoder, texts: Sequence[str], batch_size: int = 256) -> Float[Tensor, "N W"]:
    """What the text head sees of the texts, in the order given."""
    table = torch.zeros(len(texts), text.feature_width)
    # Of like length together, or most of what is computed is padding.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        table[chunk] = text.features(*text.tokenize([texts[index] for index in chunk])).cpu()
    return table


def gather(
    features: Sequence[ViewFeatures], views: Sequence[int], rows: Sequence[int], device: torch.device
) -> PictureFeatures:
    """Features of picture `rows[b]` in view `views[b]`, for all b, in single precision."""
    sizes = tuple(features[view].size(row) for view, row in zip(views, rows, strict=True))

    def stack(name: str) -> Tensor:
        stacked = np.stack(
            [features[view].arrays[name][row] for view, row in zip(views, rows, strict=True)]
        )
        return torch.from_numpy(stacked).to(device).float()

    resample = torch.zeros(len(rows), MAX_REGIONS, MAX_CELLS)
    mask = torch.zeros(len(rows), MAX_REGIONS, dtype=torch.bool)
    matrices = {shape.grid: upsampling(shape.conv_grid, shape.grid) for shape in SHAPES}
    for index, size in enumerate(sizes):
        num_regions, num_cells = matrices[size].shape
        resample[index, :num_regions, :num_cells] = matrices[size]
        mask[index, :num_regions] = True
    found = TowerFeatures(*map(stack, TowerFeatures._fields))
    return PictureFeatures(found, resample.to(device), mask.to(device), sizes)
