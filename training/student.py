"""The model in training: the frozen part comes from disk, the last blocks and all heads are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from training.frozen import FrozenFeatures
from xattn.encoders.hybrid.fusion import TowerFeatures, upsampling
from xattn.encoders.hybrid.text import SentenceEncoder
from xattn.encoders.hybrid.vision import SHAPES, VIT_BLOCK, HybridEncoder
from xattn.errors import DataError
from xattn.model import XAttnModel

TEXTS_AT_ONCE = 96


class Student(nn.Module):
    """Encodes frozen features and texts as the model will, with gradients in what is trained.

    vit_blocks, text_layers: how many of the last are trained. The towers run in bfloat16 by autocast where
    `half` is set, which matrix units make several times as fast; heads and losses stay in float32.
    """

    def __init__(self, model: XAttnModel, vit_blocks: int, text_layers: int, half: bool) -> None:
        super().__init__()
        if not isinstance(model.vision, HybridEncoder) or not isinstance(model.text, SentenceEncoder):
            raise DataError(f"the recipe trains xattn's own towers, got those of {model.name}")
        self.model = model
        self.vision, self.text, self.attention = model.vision, model.text, model.attention
        blocks, layers = list(self.vision.vit.blocks), list(self.text.layers.layers)
        after = len(blocks) - (VIT_BLOCK + 1)
        if not 0 <= vit_blocks <= after or not 0 <= text_layers <= len(layers):
            raise DataError(f"at most {after} ViT blocks and {len(layers)} text layers can be trained")
        self.num_frozen_layers = len(layers) - text_layers
        self.is_half = half
        self.towers = nn.ModuleList(
            [*blocks[len(blocks) - vit_blocks :], *layers[self.num_frozen_layers :]]
        )
        if vit_blocks:
            self.towers.append(self.vision.vit.norm)
        self.heads = nn.ModuleList([self.vision.fusion, self.text.head, self.attention])
        model.requires_grad_(False)
        for module in (*self.towers, *self.heads):
            module.requires_grad_(True)

    def train(self, mode: bool = True) -> Student:
        """Dropout in the fusion only: the towers and the text head are tuned, not learned anew."""
        self.model.eval()
        self.vision.fusion.train(mode)
        return self

    def named_trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def images(
        self, frozen: FrozenFeatures, shape: int
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"]]:
        """(regions, pooled) of photos of one shape."""
        with self._towers():
            x = frozen.raw
            for block in list(self.vision.vit.blocks)[VIT_BLOCK + 1 :]:
                x = block(x)
        tokens = self.vision.vit.norm(x.float())
        early = self.vision.vit.norm(frozen.raw)
        features = TowerFeatures(frozen.cells, frozen.textures, tokens, early, frozen.prior, frozen.colors)
        resample = upsampling(SHAPES[shape].conv_grid, SHAPES[shape].grid)
        resample = resample.to(x.device).expand(len(x), -1, -1)
        regions, pooled = self.vision.fusion(features, resample)
        return regions, pooled

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit-norm embeddings, as `SentenceEncoder` gives them, in the order given."""
        # Of like length together: captions and phrases in one batch would be padding for the most part.
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        parts = [order[i : i + TEXTS_AT_ONCE] for i in range(0, len(order), TEXTS_AT_ONCE)]
        features = torch.cat([self._text_features([texts[n] for n in part]) for part in parts])
        place = torch.empty(len(order), dtype=torch.long)
        place[torch.tensor(order)] = torch.arange(len(order))
        return self.text.head(features[place])

    def _text_features(self, texts: Sequence[str]) -> Float[Tensor, "N features"]:
        ids, valid = self.text.tokenize(texts)
        with torch.no_grad():
            words = self.text.tokens(ids)
            places = torch.arange(ids.shape[1], device=ids.device)
            x = self.text.norm(words + self.text.positions(places))
        states = [x]
        for number, layer in enumerate(self.text.layers.layers):
            trained = torch.is_grad_enabled() and number >= self.num_frozen_layers
            with torch.set_grad_enabled(trained), self._towers():
                states.append(_encoder_layer(layer, states[-1], valid))
        middle = states[len(self.text.layers.layers) // 2]
        return self.text.join(words, middle, states[-1], valid)

    def _towers(self) -> torch.autocast:
        return torch.autocast(
            next(self.model.parameters()).device.type, torch.bfloat16, enabled=self.is_half
        )


def _encoder_layer(
    layer: nn.TransformerEncoderLayer, x: Float[Tensor, "N T width"], valid: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T width"]:
    """A post-norm `nn.TransformerEncoderLayer` from its parts.

    Under autocast torch's own copies its weights again for every token.
    """
    attention = layer.self_attn
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    )
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None, :])
    x = layer.norm1(x + attention.out_proj(mixed.transpose(1, 2).flatten(2)))
    return layer.norm2(x + layer.linear2(F.gelu(layer.linear1(x)))).float()
