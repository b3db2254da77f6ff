"""Joins the two nets of the default vision tower into region features and a pooled embedding.

Four things are known of each region: the ViT's patch token, the convolutional feature resampled to the
patch, the patch's colours, which both nets were trained to look past, and the *class prior*: the ImageNet
classes that the convolutional net sees there, as the average of their names' sentence embeddings weighted
by probability (ConSE: Norouzi et al. 2013). The prior ties pictures to words for a thousand kinds of thing
before any caption is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from xattn.types import Size

COLOR_HIDDEN = 64


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """Widths: dim of what comes out, conv and vit of the nets' features, text of the class names',
    color of `patch_colors`.

    num_blocks: transformer blocks in which the regions see each other, of num_heads heads
    """

    dim: int = 256
    conv_width: int = 1280
    vit_width: int = 384
    text_width: int = 384
    num_classes: int = 1000
    color_width: int = 6
    num_blocks: int = 1
    num_heads: int = 4
    dropout: float = 0.1


@lru_cache
def upsampling(from_size: Size, to_size: Size) -> Float[Tensor, "R P"]:
    """Matrix that resamples a grid bilinearly (half-pixel centres), row-major cells on both sides."""
    num_cells = from_size[0] * from_size[1]
    basis = torch.eye(num_cells).view(num_cells, 1, *from_size)
    return F.interpolate(basis, size=to_size, mode="bilinear", align_corners=False).flatten(1).T


def patch_colors(frames: Float[Tensor, "B 3 h w"], grid: Size) -> Float[Tensor, "B R 6"]:
    """Mean and spread (standard deviation) of each channel over each cell of a grid.

    frames: RGB in [0, 1], sides divisible by the grid's. Means are moved to [-1, 1], spreads to [0, 1].
    """
    # As numbers: while a graph is exported, sizes are tensors, and a pool's cell must not be one.
    cell = (int(frames.shape[2] // grid[0]), int(frames.shape[3] // grid[1]))
    mean = F.avg_pool2d(frames, cell)
    spread = (F.avg_pool2d(frames.square(), cell) - mean.square()).clamp(min=0).sqrt()
    return torch.cat([2 * mean - 1, 2 * spread], 1).flatten(2).transpose(1, 2)


class Fusion(nn.Module):
    """(ViT tokens, convolutional cells, class prior, colours) → (regions, pooled)."""

    PRIOR_SCALE = 4.0
    """An average of unit vectors is short; this brings the prior to the size of the other two."""

    class_names: Tensor

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        dim = config.dim
        self.register_buffer("class_names", torch.zeros(config.num_classes, config.text_width))
        self.dropout = nn.Dropout(config.dropout)
        self.conv_norm = nn.LayerNorm(config.conv_width)
        self.conv_map = nn.Linear(config.conv_width, dim)
        self.vit_norm = nn.LayerNorm(config.vit_width)
        self.vit_map = nn.Linear(config.vit_width, dim)
        self.prior_map = nn.Linear(config.text_width, dim)
        self.color_map = nn.Sequential(
            nn.Linear(config.color_width, COLOR_HIDDEN), nn.GELU(), nn.Linear(COLOR_HIDDEN, dim)
        )
        self.region_mlp = residual_mlp(dim, config.dropout)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, config.num_heads, 2 * dim, config.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.num_blocks)
        )
        self.pool_query = nn.Linear(dim, 1)
        self.global_conv_norm = nn.LayerNorm(config.conv_width)
        self.global_conv_map = nn.Linear(config.conv_width, dim)
        self.global_vit_norm = nn.LayerNorm(config.vit_width)
        self.global_vit_map = nn.Linear(config.vit_width, dim)
        self.global_prior_map = nn.Linear(config.text_width, dim)
        self.global_mlp = residual_mlp(dim, config.dropout)

    def class_prior(
        self, cells: Float[Tensor, "B P C"], classifier: nn.Module
    ) -> Float[Tensor, "B S text"]:
        """Expected class name of the whole picture (first) and of each cell: S = 1 + P places."""
        places = torch.cat([cells.mean(1, keepdim=True), cells], 1)
        return classifier(places).softmax(-1) @ self.class_names

    def forward(
        self,
        tokens: Float[Tensor, "B T V"],
        cells: Float[Tensor, "B P C"],
        prior: Float[Tensor, "B S text"],
        colors: Float[Tensor, "B R 6"],
        resample: Float[Tensor, "B R P"],
        mask: Bool[Tensor, "B R"] | None = None,
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"]]:
        """T = 1 + R tokens, S = 1 + P places; mask: True where a region is real.

        Padding cells must be zero, and are where `resample` is.
        """
        prior = prior * self.PRIOR_SCALE
        named = self.conv_map(self.dropout(self.conv_norm(cells))) + self.prior_map(prior[:, 1:])
        regions = resample @ named + self.vit_map(self.dropout(self.vit_norm(tokens[:, 1:])))
        regions = regions + self.color_map(colors)
        regions = regions + self.region_mlp(regions)
        for block in self.blocks:
            regions = block(regions, src_key_padding_mask=None if mask is None else ~mask)

        share = self.pool_query(regions)[..., 0]
        if mask is not None:
            share = share.masked_fill(~mask, torch.finfo(share.dtype).min)
        pooled = torch.einsum("br,brd->bd", share.softmax(-1), regions)
        # Real cells are never all zero (a ReLU net's may be in theory): padding is told by its zeros.
        num_cells = (cells.abs().sum(-1) > 0).sum(1, keepdim=True).clamp(min=1)
        mean = cells.sum(1) / num_cells
        pooled = pooled + self.global_conv_map(self.dropout(self.global_conv_norm(mean)))
        pooled = pooled + self.global_vit_map(self.dropout(self.global_vit_norm(tokens[:, 0])))
        pooled = pooled + self.global_prior_map(prior[:, 0])
        return regions, F.normalize(pooled + self.global_mlp(pooled), dim=-1)


def residual_mlp(dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
    )
