"""Joins the two nets of the default vision tower into region features and a pooled embedding.

Of each region are known: the ViT's patch token, of its last block and of an earlier one; the convolutional
feature resampled to the patch, of its last map and of an earlier, finer one; the patch's colours, which
both nets were trained to look past; and the *class prior*: the ImageNet classes that the convolutional net
sees there, as the average of their names' sentence embeddings weighted by probability (ConSE: Norouzi et
al. 2013). The prior ties pictures to words for a thousand kinds of thing before any caption is seen.

Regions and pooled embedding share no weights: what each gets wrong differs, so that the second stage of a
search can correct the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from xattn.types import Size

COLOR_HIDDEN = 64


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """Widths: dim of what comes out, conv, texture and vit of the nets' features, text of the class
    names', color of `patch_colors`.
    """

    dim: int = 256
    conv_width: int = 1280
    texture_width: int = 120
    vit_width: int = 384
    text_width: int = 384
    num_classes: int = 1000
    color_width: int = 6
    dropout: float = 0.3


class TowerFeatures(NamedTuple):
    """What the two nets say of B pictures: R regions, P cells; T = 1 + R tokens, S = 1 + P places.

    cells:    the last map of the convolutional net
    textures: an earlier, finer map of it, resampled to the regions
    tokens:   the ViT's last block, class token first
    early:    an earlier block of it, likewise
    prior:    expected class name (`Fusion.class_prior`) of the whole picture, then of each cell
    colors:   `patch_colors`
    Padding is zero. Where it is, `resample` and `mask` of `Fusion` tell.
    """

    cells: Float[Tensor, "B P C"]
    textures: Float[Tensor, "B R X"]
    tokens: Float[Tensor, "B T V"]
    early: Float[Tensor, "B T V"]
    prior: Float[Tensor, "B S text"]
    colors: Float[Tensor, "B R 6"]


@lru_cache
def upsampling(from_size: Size, to_size: Size) -> Float[Tensor, "R P"]:
    """Matrix that resamples a grid bilinearly (half-pixel centres), row-major cells on both sides."""
    num_cells = from_size[0] * from_size[1]
    with torch.inference_mode(False):  # kept for calls that want gradients, whoever asks first
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
    """`TowerFeatures` → (regions, pooled)."""

    class_names: Tensor

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.register_buffer("class_names", torch.zeros(config.num_classes, config.text_width))
        self.regions = RegionFusion(config)
        self.pooling = Pooling(config)

    def class_prior(
        self, cells: Float[Tensor, "B P C"], classifier: nn.Module
    ) -> Float[Tensor, "B S text"]:
        """Expected class name of the whole picture (first) and of each cell: S = 1 + P places."""
        places = torch.cat([cells.mean(1, keepdim=True), cells], 1)
        return classifier(places).softmax(-1) @ self.class_names

    def forward(
        self,
        features: TowerFeatures,
        resample: Float[Tensor, "B R P"],
        mask: Bool[Tensor, "B R"] | None = None,
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"]]:
        """resample: brings cells to regions, zero on padding cells; mask: True where a region is real."""
        return self.regions(features, resample), self.pooling(features, resample, mask)


class SharedDropout(nn.Module):
    """Drops whole features of a picture, in all its places at once: what is near is alike, so that
    dropping single numbers would hide little. And it draws far fewer random numbers."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        if not self.training or not self.rate:
            return x
        kept = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= self.rate
        return x * (kept.to(x.dtype) / (1 - self.rate))


PRIOR_SCALE = 4.0
"""An average of unit vectors is short; this brings the prior to the size of the other features."""


class RegionFusion(nn.Module):
    """Each region by itself: the ViT's blocks have already let the regions see each other."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        dim = config.dim
        self.dropout = SharedDropout(config.dropout)
        self.cell_norm, self.cell_map = nn.LayerNorm(config.conv_width), nn.Linear(config.conv_width, dim)
        self.prior_map = nn.Linear(config.text_width, dim)
        self.token_norm, self.token_map = nn.LayerNorm(config.vit_width), nn.Linear(config.vit_width, dim)
        self.early_norm, self.early_map = nn.LayerNorm(config.vit_width), nn.Linear(config.vit_width, dim)
        self.texture_norm = nn.LayerNorm(config.texture_width)
        self.texture_map = nn.Linear(config.texture_width, dim)
        self.color_map = nn.Sequential(
            nn.Linear(config.color_width, COLOR_HIDDEN), nn.GELU(), nn.Linear(COLOR_HIDDEN, dim)
        )
        self.mlp = residual_mlp(dim, 0.0)

    def forward(self, f: TowerFeatures, resample: Float[Tensor, "B R P"]) -> Float[Tensor, "B R D"]:
        drop = self.dropout
        named = self.cell_map(drop(self.cell_norm(f.cells))) + self.prior_map(f.prior[:, 1:] * PRIOR_SCALE)
        regions = resample @ named
        regions = regions + self.token_map(drop(self.token_norm(f.tokens[:, 1:])))
        regions = regions + self.early_map(drop(self.early_norm(f.early[:, 1:])))
        regions = regions + self.texture_map(drop(self.texture_norm(f.textures)))
        regions = regions + self.color_map(f.colors)
        return regions + self.mlp(regions)


class Pooling(nn.Module):
    """The whole picture: the sum of linear maps of what `summary` says of it, then a small net."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        conv, vit, text, dim = config.conv_width, config.vit_width, config.text_width, config.dim
        widths = {"cells": conv, "peaks": conv, "class_token": vit, "tokens": vit}
        widths |= {"early_class_token": vit, "early": vit, "textures": config.texture_width}
        # Class names and colours come in scales of their own, which mean something.
        plain = {"prior": text, "prior_of_cells": text, "colors": config.color_width}
        self.dropout = nn.Dropout(config.dropout)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in widths.items()})
        self.maps = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in (widths | plain).items()})
        self.mlp = residual_mlp(dim, config.dropout)

    def summary(
        self, f: TowerFeatures, resample: Float[Tensor, "B R P"], mask: Bool[Tensor, "B R"] | None
    ) -> dict[str, Float[Tensor, "B W"]]:
        """Means over real places, peaks over cells, and what the nets say of the whole. Padding being zero,
        a mean is a sum over what is real, and a peak (after a ReLU) never lies on padding."""
        real = (resample.sum(1) > 0).sum(1, keepdim=True)
        num_regions = f.colors.shape[1] if mask is None else mask.sum(1, keepdim=True)
        return {
            "cells": f.cells.sum(1) / real,
            "peaks": f.cells.amax(1),
            "class_token": f.tokens[:, 0],
            "tokens": f.tokens[:, 1:].sum(1) / num_regions,
            "early_class_token": f.early[:, 0],
            "early": f.early[:, 1:].sum(1) / num_regions,
            "prior": f.prior[:, 0] * PRIOR_SCALE,
            "prior_of_cells": f.prior[:, 1:].sum(1) / real * PRIOR_SCALE,
            "textures": f.textures.sum(1) / num_regions,
            "colors": f.colors.sum(1) / num_regions,
        }

    def forward(
        self,
        features: TowerFeatures,
        resample: Float[Tensor, "B R P"],
        mask: Bool[Tensor, "B R"] | None = None,
    ) -> Float[Tensor, "B D"]:
        return self.embed(self.summary(features, resample, mask))

    def embed(self, summary: Mapping[str, Float[Tensor, "B W"]]) -> Float[Tensor, "B D"]:
        """Unit-norm embeddings of pictures of which `summary` is known."""
        pooled = summary["prior"].new_zeros(())
        for name, value in summary.items():
            normed = self.norms[name](value) if name in self.norms else value
            # The prior stays whole: it is already an average, over a thousand names.
            pooled = pooled + self.maps[name](normed if name.startswith("prior") else self.dropout(normed))
        return F.normalize(pooled + self.mlp(pooled), dim=-1)


def residual_mlp(dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
    )
