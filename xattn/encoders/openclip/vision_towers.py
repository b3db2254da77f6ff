"""open_clip's vision towers, each taught to give its regions in the joint space.

    VitTower       open_clip's own ViT, CoCa's attentional pooling included
    ResNetTower    CLIP's ModifiedResNet: the attention pool, read at every place
    (timm_towers)  what open_clip takes from timm

A tower wraps the module that open_clip built, adds no weights, and gives the pooled features exactly as
open_clip does. A region's features are what the tower's head makes of that region's token alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from open_clip.transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from xattn.encoders.openclip.dense import (
    DENSE_METHODS,
    DenseMethod,
    TokenGrid,
    last_block_tokens,
    read_values,
    resample_positions,
)
from xattn.types import Size


class Tower(ABC):
    """One of open_clip's vision towers.

    cell:     (height, width) in pixels of one region
    native:   (height, width) in pixels that the tower was trained at
    flexible: whether it takes other sizes, multiples of `cell`
    methods:  the dense methods it can do, its default first
    """

    cell: Size
    native: Size
    flexible: bool = True
    methods: tuple[DenseMethod, ...] = DENSE_METHODS

    def __init__(self, visual: nn.Module) -> None:
        self.visual = visual

    def grid(self, size: Size) -> Size:
        """(H, W) of the regions of a picture of `size` pixels."""
        return size[0] // self.cell[0], size[1] // self.cell[1]

    def pooled(self, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B D"]:
        """open_clip's own pooled features, not normalised; at the native size only."""
        found = self.visual(pixels)
        return found[0] if isinstance(found, tuple) else found

    @abstractmethod
    def encode(
        self, pixels: Float[Tensor, "B 3 h w"], method: DenseMethod
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"]]:
        """Regions and pooled features, neither normalised, of one pass; at the native size `pooled`."""


class VitBlock:
    """open_clip's transformer block, plain or with its custom attention."""

    def __init__(self, block: Any) -> None:
        self.block = block
        attention = block.attn
        self.num_heads = attention.num_heads
        self.scale = attention.head_dim**-0.5

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.block.attn
        qkv = F.linear(self.block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if isinstance(attention, Attention):
            q, k = attention.ln_q(q), attention.ln_k(k)
        return q, k, v

    def merge(self, read: Tensor) -> Tensor:
        attention = self.block.attn
        custom = isinstance(attention, Attention)
        if custom and attention.head_scale is not None:
            read = read * attention.head_scale
        merged = read.transpose(1, 2).flatten(2)
        branch = attention.out_proj(attention.ln_inner(merged) if custom else merged)
        return self.block.ls_1(self.block.ln_attn(branch) if custom else branch)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.block.ls_2(self.block.mlp(self.block.ln_2(x)))

    def plain(self, x: Tensor) -> Tensor:
        if isinstance(self.block.attn, Attention) or self.block.training:
            return self.block(x)
        # The same without torch's MultiheadAttention, which turns its input around: under autocast its
        # first product then copies the weights once a token, and takes ten times as long as all the rest.
        x = x + self.merge(F.scaled_dot_product_attention(*self.project(x)))
        return x + self.feed_forward(x)


class VitTower(Tower):
    """open_clip's own ViT: the class token is the one prefix token."""

    visual: Any

    def __init__(self, visual: nn.Module) -> None:
        super().__init__(visual)
        self.cell = tuple(self.visual.patch_size)
        self.native = tuple(self.visual.image_size)
        self.trained_grid = TokenGrid(tuple(self.visual.grid_size), num_prefix=1)
        block = self.visual.transformer.resblocks[-1]
        scaled_cosine = isinstance(block.attn, Attention) and block.attn.logit_scale is not None
        if scaled_cosine or getattr(self.visual, "attn_pool_contrastive", None) is not None:
            self.methods = ("plain",)  # other attention than the methods are made for

    def positions(self, grid: Size) -> Tensor:
        return resample_positions(self.visual.positional_embedding, self.trained_grid, grid)

    def encode(
        self, pixels: Float[Tensor, "B 3 h w"], method: DenseMethod
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"]]:
        x, last, grid = self.before_last(pixels)
        whole = last.plain(x)
        tokens = whole if method == "plain" else last_block_tokens(last, x, method, grid)
        return self.project(tokens[:, 1:]), self.pool(whole)

    def pooled(self, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B D"]:
        x, last, _ = self.before_last(pixels)
        return self.pool(last.plain(x))

    def before_last(
        self, pixels: Float[Tensor, "B 3 h w"]
    ) -> tuple[Float[Tensor, "B T C"], VitBlock, TokenGrid]:
        """Tokens that enter the last block, that block, and how the tokens lie."""
        grid = TokenGrid(self.grid((pixels.shape[2], pixels.shape[3])), 1)
        *blocks, last = map(VitBlock, self.visual.transformer.resblocks)
        x = self.embedded(pixels, self.positions(grid.size))
        for block in blocks:
            x = block.plain(x)
        return x, last, grid

    def pool(self, tokens: Float[Tensor, "B T C"]) -> Float[Tensor, "B D"]:
        """What open_clip makes of the last block's tokens."""
        visual = self.visual
        pooled, _ = visual._pool(tokens)
        return pooled if visual.proj is None else pooled @ visual.proj

    def embedded(
        self, pixels: Float[Tensor, "B 3 h w"], positions: Float[Tensor, "T C"]
    ) -> Float[Tensor, "B T C"]:
        """open_clip's `_embeds`, with the positions of the grid that the picture has."""
        visual = self.visual
        x = visual.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], 1)
        return visual.ln_pre(visual.patch_dropout(x + positions.to(x.dtype)))

    def project(self, tokens: Float[Tensor, "B R C"]) -> Float[Tensor, "B R D"]:
        """Tokens of the last block → the joint space: ln_post and proj, after CoCa's pooler if any."""
        visual = self.visual
        if visual.attn_pool is not None:
            tokens = pooler_values(visual.attn_pool, tokens)
        tokens = visual.ln_post(tokens)
        return tokens if visual.proj is None else tokens @ visual.proj


def pooler_values(pooler: Any, tokens: Float[Tensor, "B R C"]) -> Float[Tensor, "B R D"]:
    """What CoCa's attentional pooler reads from each token, were it the only one: its value path."""
    attention = pooler.attn
    weight = attention.v_proj_weight
    if weight is None:
        weight = attention.in_proj_weight[-attention.embed_dim :]
    values = F.linear(pooler.ln_k(tokens), weight, attention.in_proj_bias[-attention.embed_dim :])
    return attention.out_proj(values)


class ResNetTower(Tower):
    """CLIP's ResNet: its attention pool, the one attention layer it has, is read at every place.

    The pool has no residual and no feed-forward part, so `maskclip` is the dense projection v → out that
    MaskCLIP uses for ResNets, and the other methods change its weights alone.
    """

    visual: Any
    cell = (32, 32)

    def __init__(self, visual: nn.Module) -> None:
        super().__init__(visual)
        size = self.visual.image_size
        self.native = (size, size) if isinstance(size, int) else tuple(size)
        side = round((len(self.visual.attnpool.positional_embedding) - 1) ** 0.5)
        self.trained_grid = TokenGrid((side, side), num_prefix=1)

    def positions(self, grid: Size) -> Tensor:
        return resample_positions(self.visual.attnpool.positional_embedding, self.trained_grid, grid)

    def encode(
        self, pixels: Float[Tensor, "B 3 h w"], method: DenseMethod
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"]]:
        visual = self.visual
        features = visual.stem(pixels)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            features = layer(features)
        grid = TokenGrid((features.shape[2], features.shape[3]), 1)
        pool = visual.attnpool
        x = features.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1)
        x = x + self.positions(grid.size).to(x.dtype)

        heads = (pool.num_heads, -1)
        layers = (pool.q_proj, pool.k_proj, pool.v_proj)
        q, k, v = (layer(x).unflatten(-1, heads).transpose(1, 2) for layer in layers)
        scale = q.shape[-1] ** -0.5
        whole = read_values(q, k, v, "plain", grid, scale)
        read = whole if method == "plain" else read_values(q, k, v, method, grid, scale)
        regions = pool.c_proj(read[:, :, 1:].transpose(1, 2).flatten(2))
        return regions, pool.c_proj(whole[:, :, 0].flatten(1))
