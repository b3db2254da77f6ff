"""A start for benchmarks of training: the towers of a model, with heads that have seen no caption yet.

The class prior (`xattn.encoders.hybrid.fusion`) is an average of sentence features, and so is a text. Both
are turned by one matrix, the principal directions of the training texts, and the cross-attention starts as
a comparison in that space: its first maps show where the convolutional net sees what the text names. All
else starts small.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xattn.attention import CrossAttention
from xattn.encoders.hybrid.fusion import Fusion
from xattn.encoders.hybrid.text import TextHead
from xattn.model import XAttnModel
from xattn.training.default_towers import towers_of

LEARNED_SHARE = 0.3
"""Size of what starts at random, beside what is aligned already."""


@torch.no_grad()
def give_fresh_heads(model: XAttnModel, texts: Float[Tensor, "N W"]) -> None:
    """Replaces fusion, text head and attention of a model of xattn's own towers, by torch's global seed.

    texts: what the text head sees of the training texts
    """
    vision, text = towers_of(model)
    names = vision.fusion.class_names
    vision.fusion = Fusion(vision.config.fusion)
    vision.fusion.class_names.copy_(names)
    text.head = TextHead(text.feature_width, model.dim, vision.config.fusion.dropout)
    model.attention = CrossAttention(model.dim, model.attention.num_heads)
    _align(model, texts, LEARNED_SHARE)


def _align(model: XAttnModel, texts: Float[Tensor, "N W"], learned_share: float) -> None:
    vision, text = towers_of(model)
    regions, pooling = vision.fusion.regions, vision.fusion.pooling
    sentences = text.sentences(texts).cpu()
    directions = torch.linalg.svd(sentences, full_matrices=False).Vh[: model.dim]
    # Fewer texts than dimensions, as in a smoke run, leave the rest of the space to chance.
    num_directions = len(directions)

    def turn(layer: nn.Linear) -> None:
        layer.weight[:num_directions, : directions.shape[1]] = directions.to(layer.weight)

    maps = {name: cast(nn.Linear, layer) for name, layer in pooling.maps.items()}
    for layer in (regions.cell_map, regions.token_map, regions.early_map, regions.texture_map):
        layer.weight *= learned_share
        layer.bias.zero_()
    last = (regions.color_map[-1], text.head.correction[-1], text.head.linear)
    for layer in (*(cast(nn.Linear, layer) for layer in last), *maps.values()):
        layer.weight *= learned_share
    for layer in (regions.prior_map, text.head.linear, maps["prior"]):
        turn(layer)
    regions.prior_map.bias.zero_()
    text.head.linear.bias.zero_()

    attention = model.attention
    for first, second, inverse in (
        (attention.query, attention.key, False),
        (attention.value, attention.out, True),
    ):
        # At random angles, so that each head compares a part of every direction.
        rotation = torch.linalg.qr(torch.randn(model.dim, model.dim)).Q.to(first.weight)
        first.weight.copy_(rotation)
        second.weight.copy_(rotation.T if inverse else rotation)
