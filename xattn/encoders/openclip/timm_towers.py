"""The towers that open_clip takes from timm.

TimmVitTower     timm's ViT and EVA: SigLIP, PE, EVA-CLIP, MobileCLIP-B, ViTamin
FeatureMapTower  all else, by the last feature map: ConvNeXt, MobileCLIP-S (FastViT), Swin
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from open_clip.timm_model import TimmModel
from timm.layers.attention import Attention, AttentionRope
from timm.layers.format import Format
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from xattn.encoders.openclip.dense import DenseMethod, TokenGrid, last_block_tokens, resample_positions
from xattn.encoders.openclip.vision_towers import Tower
from xattn.errors import CheckpointError
from xattn.types import Size


def timm_tower(visual: TimmModel) -> Tower:
    """The tower for one of timm's models, as open_clip adapts it."""
    if hasattr(visual.head, "pool"):
        raise CheckpointError(
            "maps are not supported for timm towers with an attention pool in open_clip's head"
        )
    kind = TimmVitTower if isinstance(visual.trunk, (VisionTransformer, Eva)) else FeatureMapTower
    return kind(visual)


class TimmBlock:
    """timm's ViT and EVA blocks, pre-norm or post-norm; rope: rotary positions of this grid, or None."""

    def __init__(self, block: Any, rope: Tensor | None) -> None:
        self.block = block
        self.rope = rope
        self.scale = block.attn.scale

    @staticmethod
    def known(block: nn.Module) -> bool:
        """Whether the block is one that can be put together anew."""
        return (
            type(block) in (Block, EvaBlock, EvaBlockPostNorm)
            and type(block.attn) in (Attention, AttentionRope, EvaAttention)
            and getattr(block.attn, "gate", None) is None
        )

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.block.attn
        if not isinstance(self.block, EvaBlockPostNorm):
            x = self.block.norm1(x)
        if attention.qkv is not None:
            bias = attention.qkv.bias
            if getattr(attention, "q_bias", None) is not None:
                bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
            qkv = F.linear(x, attention.qkv.weight, bias)
            q, k, v = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            heads = attention.num_heads, getattr(attention, "num_kv_heads", attention.num_heads)
            q = attention.q_proj(x).unflatten(-1, (heads[0], -1)).transpose(1, 2)
            k = attention.k_proj(x).unflatten(-1, (heads[1], -1)).transpose(1, 2)
            v = attention.v_proj(x).unflatten(-1, (heads[1], -1)).transpose(1, 2)
        q, k = self._rotated(attention.q_norm(q)), self._rotated(attention.k_norm(k))
        # Heads to one key, in grouped-query attention.
        shared = attention.num_heads // getattr(attention, "num_kv_heads", attention.num_heads)
        if shared > 1:
            k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        return q, k, v

    def _rotated(self, x: Tensor) -> Tensor:
        if self.rope is None:
            return x
        attention = self.block.attn
        first = attention.num_prefix_tokens
        half = {"half": True} if getattr(attention, "rotate_half", False) else {}  # new in timm
        rotated = apply_rot_embed_cat(x[:, :, first:], self.rope, **half)
        return torch.cat([x[:, :, :first], rotated], 2).to(x.dtype)

    def merge(self, read: Tensor) -> Tensor:
        block, attention = self.block, self.block.attn
        branch = attention.proj(attention.norm(read.transpose(1, 2).flatten(2)))
        if isinstance(block, EvaBlockPostNorm):
            return block.norm1(branch)
        if isinstance(block, EvaBlock):
            return branch if block.gamma_1 is None else block.gamma_1 * branch
        return block.ls1(branch)

    def feed_forward(self, x: Tensor) -> Tensor:
        block = self.block
        if isinstance(block, EvaBlockPostNorm):
            return block.norm2(block.mlp(x))
        branch = block.mlp(block.norm2(x))
        if isinstance(block, EvaBlock):
            return branch if block.gamma_2 is None else block.gamma_2 * branch
        return block.ls2(branch)

    def plain(self, x: Tensor) -> Tensor:
        return self.block(x) if self.rope is None else self.block(x, rope=self.rope)


def any_grid(rope: nn.Module) -> nn.Module:
    """The same rotary positions, computed for the grid that is asked for instead of a fixed one."""
    known = {name: getattr(rope, name) for name in signature(type(rope)).parameters if hasattr(rope, name)}
    return type(rope)(**{**known, "feat_shape": None})


class TimmVitTower(Tower):
    """timm's VisionTransformer and Eva. A region is what the head makes of a picture of that token only.

    For pooling by attention (SigLIP, PE) that is the pool's value path with its feed-forward part; for
    pooling by class token or average it is the head itself.
    """

    visual: Any

    def __init__(self, visual: TimmModel) -> None:
        super().__init__(visual)
        trunk = visual.trunk
        self.num_prefix = trunk.num_prefix_tokens
        self.native = tuple(visual.image_size)
        grid = tuple(trunk.patch_embed.grid_size)
        self.cell = (self.native[0] // grid[0], self.native[1] // grid[1])
        # What timm's own switch does, after the fact: positions are resampled when the grid is another.
        trunk.dynamic_img_size = True
        trunk.patch_embed.strict_img_size = False
        trunk.patch_embed.flatten = False
        trunk.patch_embed.output_fmt = Format.NHWC
        if getattr(trunk, "rope", None) is not None:
            trunk.rope = any_grid(trunk.rope)
        if not TimmBlock.known(trunk.blocks[-1]):
            self.methods = ("plain",)

    def positions(self, grid: Size) -> Tensor | None:
        """Position embeddings of a grid, unless timm makes them itself or there are none."""
        trunk = self.visual.trunk
        if isinstance(trunk, Eva) or trunk.pos_embed is None:
            return None
        num_prefix = 0 if trunk.no_embed_class else self.num_prefix
        trained = TokenGrid(tuple(trunk.patch_embed.grid_size), num_prefix)
        return resample_positions(trunk.pos_embed[0], trained, grid)

    def encode(
        self, pixels: Float[Tensor, "B 3 h w"], method: DenseMethod
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"]]:
        trunk = self.visual.trunk
        grid = TokenGrid(self.grid((pixels.shape[2], pixels.shape[3])), self.num_prefix)
        x, rope = self.embedded(pixels, self.positions(grid.size))
        for block in trunk.blocks[:-1]:
            x = block(x) if rope is None else block(x, rope=rope)
        last = TimmBlock(trunk.blocks[-1], rope)
        whole = last.plain(x)
        tokens = whole if method == "plain" else last_block_tokens(last, x, method, grid)
        pooled = self.visual.head(trunk.forward_head(trunk.norm(whole)))
        return self.project(trunk.norm(tokens[:, self.num_prefix :])), pooled

    def embedded(
        self, pixels: Float[Tensor, "B 3 h w"], positions: Tensor | None
    ) -> tuple[Float[Tensor, "B T C"], Tensor | None]:
        """Tokens that enter the blocks, and the rotary positions of their grid."""
        trunk = self.visual.trunk
        x = trunk.patch_embed(pixels)
        if isinstance(trunk, Eva):
            x, rope = trunk._pos_embed(x)
            return trunk.norm_pre(x), rope
        x = x.reshape(x.shape[0], -1, x.shape[3])
        prefix = [token for token in (trunk.cls_token, trunk.reg_token) if token is not None]
        prefix = [token.expand(x.shape[0], -1, -1) for token in prefix]
        if positions is None:
            x = torch.cat([*prefix, x], 1)
        elif trunk.no_embed_class:
            x = torch.cat([*prefix, x + positions], 1)
        else:
            x = torch.cat([*prefix, x], 1) + positions
        return trunk.norm_pre(trunk.patch_drop(trunk.pos_drop(x))), None

    def project(self, tokens: Float[Tensor, "B R C"]) -> Float[Tensor, "B R D"]:
        """The head of a picture of that one token, which stands in every place the head looks at."""
        sequences = tokens.reshape(-1, 1, tokens.shape[2]).expand(-1, self.num_prefix + 1, -1)
        found = self.visual.head(self.visual.trunk.forward_head(sequences))
        return found.reshape(tokens.shape[0], -1, found.shape[1])


class FeatureMapTower(Tower):
    """Any other model of timm's: the head is read at every place of the last feature map.

    Exact for heads that average the map and then project, as those of ConvNeXt and FastViT do.
    """

    visual: Any
    methods = ("plain",)

    def __init__(self, visual: TimmModel) -> None:
        super().__init__(visual)
        trunk = visual.trunk
        self.native = tuple(visual.image_size)
        self.num_prefix = getattr(trunk, "num_prefix_tokens", 0)
        fixed = getattr(trunk, "patch_embed", None)
        self.flexible = fixed is None
        stride = max(level["reduction"] for level in trunk.feature_info)
        self.cell = (stride, stride)

    def encode(
        self, pixels: Float[Tensor, "B 3 h w"], method: DenseMethod
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"]]:
        trunk = self.visual.trunk
        features = trunk.forward_features(pixels)
        pooled = self.visual.head(trunk.forward_head(features))
        if features.ndim == 3:  # tokens, repeated for heads that skip the prefix
            tokens = features[:, self.num_prefix :].flatten(0, 1)
            cells = tokens[:, None].expand(-1, self.num_prefix + 1, -1)
        elif features.shape[1] == trunk.num_features:  # [B C H W]
            cells = features.flatten(2).transpose(1, 2).flatten(0, 1)[:, :, None, None]
        else:  # [B H W C]
            cells = features.flatten(0, 2)[:, None, None]
        regions = self.visual.head(trunk.forward_head(cells)).unflatten(0, (pixels.shape[0], -1))
        return regions, pooled
