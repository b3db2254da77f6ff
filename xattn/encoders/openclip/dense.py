"""Region features from the last block of a CLIP tower, without training.

CLIP trains one pooled vector; its last block gathers what matters for the whole picture and mixes the
places up. Each method below changes what the last self-attention mixes, so that a patch's token stays
about its patch and still lands in the space shared with text. With q, k, v of the last block, scale
s = 1/√d_head, softmax over tokens, per head:

    plain       softmax(s·q kᵀ) v                       the block as it was trained
    maskclip    v                                       MaskCLIP, Zhou et al., ECCV 2022
    sclip       (softmax(s·q qᵀ) + softmax(s·k kᵀ)) v   SCLIP, Wang et al., ECCV 2024
    clearclip   softmax(s·q qᵀ) v                       ClearCLIP, Lan et al., ECCV 2024
    naclip      softmax(s·k kᵀ + ω) v                   NACLIP, Hajimiri et al., WACV 2025

ω is a Gaussian of the distance between two patches in cells, of height 1; it is 0 to and from prefix
tokens (class, registers). plain, maskclip and sclip keep the block's residual connections and feed-forward
part, as their authors do; clearclip and naclip drop both and return the attention branch alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from xattn.types import Size

DenseMethod = Literal["clearclip", "naclip", "sclip", "maskclip", "plain"]
DENSE_METHODS: tuple[DenseMethod, ...] = get_args(DenseMethod)
ATTENTION_ONLY = ("clearclip", "naclip")
"""Methods that return the attention branch without residual and feed-forward part."""
NACLIP_SIGMA = 5.0
"""Standard deviation of the Gaussian in cells, as its authors use."""


@runtime_checkable
class LastBlock(Protocol):
    """The parts of a transformer block that the methods put together anew. T tokens, K heads of width d."""

    scale: float

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Block input [B T C] → q, k, v [B K T d], normalised and rotated as the block does."""

    def merge(self, read: Tensor) -> Tensor:
        """What the heads read [B K T d] → the attention branch [B T C], layer scale included."""

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second branch [B T C], to be added to its input."""

    def plain(self, x: Tensor) -> Tensor:
        """The block as it was trained, [B T C] → [B T C]."""


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """How tokens lie: `num_prefix` that are no place, then H·W in row-major order."""

    size: Size
    num_prefix: int


def last_block_tokens(
    block: LastBlock, x: Float[Tensor, "B T C"], method: DenseMethod, grid: TokenGrid
) -> Float[Tensor, "B T C"]:
    """What the changed last block makes of its input."""
    if method == "plain":
        return block.plain(x)
    branch = block.merge(read_values(*block.project(x), method, grid, block.scale))
    if method in ATTENTION_ONLY:
        return branch
    x = x + branch
    return x + block.feed_forward(x)


def read_values(
    q: Float[Tensor, "B K T d"],
    k: Float[Tensor, "B K T d"],
    v: Float[Tensor, "B K T d"],
    method: DenseMethod,
    grid: TokenGrid,
    scale: float,
) -> Float[Tensor, "B K T d"]:
    """The methods' formulas; see the module docstring. Softmax in float32."""
    if method == "maskclip":
        return v
    if method == "clearclip":
        return _softmax(q @ q.transpose(-2, -1) * scale, v)
    if method == "sclip":
        return _softmax(q @ q.transpose(-2, -1) * scale, v) + _softmax(k @ k.transpose(-2, -1) * scale, v)
    if method == "naclip":
        return _softmax(k @ k.transpose(-2, -1) * scale + neighbourhood(grid).to(k), v)
    return _softmax(q @ k.transpose(-2, -1) * scale, v)


def _softmax(logits: Float[Tensor, "B K T T"], v: Float[Tensor, "B K T d"]) -> Float[Tensor, "B K T d"]:
    return logits.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


def neighbourhood(grid: TokenGrid, sigma: float = NACLIP_SIGMA) -> Float[Tensor, "T T"]:
    """NACLIP's ω: exp(-|place_i - place_j|² / 2σ²) between patches, 0 where a prefix token is involved."""
    rows, columns = torch.meshgrid(torch.arange(grid.size[0]), torch.arange(grid.size[1]), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1).float()
    squared = (places[:, None] - places[None]).square().sum(-1)
    return F.pad(torch.exp(-squared / (2 * sigma**2)), (grid.num_prefix, 0, grid.num_prefix, 0))


def resample_positions(
    positions: Float[Tensor, "T C"], from_grid: TokenGrid, to_size: Size
) -> Float[Tensor, "S C"]:
    """Position embeddings of another grid: bicubic with antialiasing, as open_clip and timm resize them.

    T = num_prefix + H·W of from_grid; what belongs to prefix tokens stays.
    """
    if to_size == from_grid.size:
        return positions
    prefix, places = positions[: from_grid.num_prefix], positions[from_grid.num_prefix :]
    picture = places.float().T.unflatten(1, from_grid.size)[None]
    picture = F.interpolate(picture, to_size, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([prefix, picture[0].flatten(1).T.to(positions.dtype)])
