"""Takes out of a score what a picture matches with any text, and a text with any picture.

Where embeddings have many dimensions a few pictures, the hubs, are near to everything and come up for
query after query (Radovanović et al. 2010). How near a picture is to texts in general is measured on a
bank of captions, how near a text is to pictures in general on a bank of pictures, both of them training
data, and subtracted: the inverted softmax (Smith et al. 2017), as query-bank normalisation (Bogolin et
al. 2022), on cosines and in both directions:

    hubness(picture, text) = typical(pooled, captions) + typical(text, pictures)
    typical(x, bank)       = log mean over b in bank of exp(scale · x·b) / scale
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Hubness(nn.Module):
    """Banks of unit-norm embeddings of width `dim`. An empty bank takes nothing away.

    scale: high values look at the nearest of a bank, low ones at its mean
    """

    captions: Tensor
    pictures: Tensor

    def __init__(self, dim: int, num_captions: int = 0, num_pictures: int = 0, scale: float = 10.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale = scale
        self.register_buffer("captions", torch.zeros(num_captions, dim))
        self.register_buffer("pictures", torch.zeros(num_pictures, dim))

    def fill(self, captions: Float[Tensor, "C D"], pictures: Float[Tensor, "P D"]) -> None:
        """Replaces both banks."""
        self.captions = captions.detach().clone()
        self.pictures = pictures.detach().clone()

    def of_pictures(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Cosine of each picture with a typical text."""
        return self._typical(pooled, self.captions)

    def of_texts(self, texts: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        """Cosine of each text with a typical picture."""
        return self._typical(texts, self.pictures)

    def forward(self, pooled: Float[Tensor, "B D"], texts: Float[Tensor, "N D"]) -> Float[Tensor, "B N"]:
        """What to subtract from the cosine of each picture and each text."""
        return self.of_pictures(pooled)[:, None] + self.of_texts(texts)

    def _typical(self, embeddings: Float[Tensor, "N D"], bank: Float[Tensor, "M D"]) -> Float[Tensor, " N"]:
        if not len(bank):
            return embeddings.new_zeros(len(embeddings))
        logits = self.scale * embeddings @ bank.to(embeddings.dtype).T
        return (logits.logsumexp(-1) - math.log(len(bank))) / self.scale
