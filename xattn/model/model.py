"""The model: two towers and the cross-attention between them.

    cosine(image, text) = (1 - β) · cos(attended, text) + β · cos(pooled, text) - hubness(pooled, text)
    score               = logit_scale · cosine + logit_bias
    probability         = sigmoid(score)

with β = pooled_weight. All of it is computed from a RegionGrid, so a search over stored grids touches no
pixel and no vision tower. The score is a sum: regions, null, pooled, hubness, bias (`ground_regions`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from xattn.attention import CrossAttention
from xattn.encoders import Frames, TextEncoder, VisionEncoder
from xattn.model.calibration import Calibration
from xattn.model.grounding import Examined
from xattn.model.hubness import Hubness
from xattn.model.identity import feature_fingerprint, whole_fingerprint
from xattn.types import Grounding, Phrase, RegionGrid, Size


class XAttnModel(nn.Module):
    """Text-query cross-attention over the regions of pictures. In eval mode as made and as loaded.

    name: what a person calls it ("default", a path); shown, never compared. hubness: none by default.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        text: TextEncoder,
        attention: CrossAttention,
        calibration: Calibration,
        name: str = "unnamed",
        hubness: Hubness | None = None,
    ) -> None:
        super().__init__()
        widths = (vision.dim, text.dim, attention.dim)
        if len(set(widths)) != 1:
            raise ValueError(f"vision, text and attention must share one width, got {widths}")
        self.vision = vision
        self.text = text
        self.attention = attention
        self.hubness = hubness or Hubness(attention.dim)
        self.calibration = calibration
        self.name = name
        self.eval()

    @property
    def dim(self) -> int:
        return self.attention.dim

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def feature_fingerprint(self) -> str:
        """Hex digest of what decides the features of pictures, on which an index depends: equal for models
        that differ in attention, text tower or calibration only. Computed anew at each call."""
        return feature_fingerprint(self.vision)

    @property
    def fingerprint(self) -> str:
        """Hex digest of every weight and of how the towers are used. Thresholds and names are left out.
        Computed anew at each call."""
        return whole_fingerprint(self)

    def stage1_vectors(self, pooled: Float[Tensor, "N D"]) -> Float[Tensor, "N D+1"]:
        """Vectors of pictures whose inner product with `stage1_queries` is cosine less hubness.

        Args:
            pooled: pooled embeddings of pictures, unit norm
        """
        return torch.cat([pooled, -self.hubness.of_pictures(pooled)[:, None]], 1)

    def stage1_queries(self, embeddings: Float[Tensor, "Q D"]) -> Float[Tensor, "Q D+1"]:
        """Vectors of texts for stage 1. embeddings: of the texts, unit norm."""
        return F.pad(embeddings.float(), (0, 1), value=1.0)

    def preprocess(self, picture: Image.Image) -> Frames:
        """One upright RGB picture, resized for `encode_frames`. Thread-safe, so it can run ahead."""
        return self.vision.preprocess(picture)

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames]) -> RegionGrid:
        """Region grids of pictures that `preprocess` has resized, in the order given."""
        return self.vision(batch)

    def encode_images(self, pictures: Sequence[Image.Image]) -> RegionGrid:
        """Region grids of upright RGB pictures, in the order given; of none an empty batch."""
        if not pictures:
            none = torch.zeros(0, self.dim, device=self.device)
            return RegionGrid(none[:, None], none, ())
        return self.encode_frames([self.preprocess(picture) for picture in pictures])

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit-norm embeddings."""
        return self.text(texts)

    @torch.inference_mode()
    def score(
        self, images: RegionGrid, texts: Sequence[str] | Float[Tensor, "N D"]
    ) -> Float[Tensor, "B N"]:
        """Match logits of every picture and every text (or its embedding)."""
        embeddings = texts if isinstance(texts, Tensor) else self.encode_texts(texts)
        explained = self.attention.explain(images.regions, embeddings, images.mask)
        hubness = self.hubness(images.pooled, embeddings)
        return self.combine(explained.cosine, images.pooled @ embeddings.T, hubness)

    def combine(
        self,
        attended: Float[Tensor, "B N"],
        pooled: Float[Tensor, "B N"],
        hubness: Float[Tensor, "B N"],
    ) -> Float[Tensor, "B N"]:
        """Match logits from the cosines of each text with what it read and with the pooled vectors."""
        c = self.calibration
        cosine = (1 - c.pooled_weight) * attended + c.pooled_weight * pooled - hubness
        return c.logit_scale * cosine + c.logit_bias

    def ground(self, image: Image.Image, phrases: Sequence[str | Phrase]) -> list[Grounding]:
        """Finds each phrase in one upright RGB picture. Boxes are in its pixels."""
        if not phrases:
            return []
        named = [p if isinstance(p, Phrase) else Phrase(p, 0, len(p), "whole") for p in phrases]
        size = (image.height, image.width)
        return self.ground_regions(self.encode_images([image]), named, [size])[0]

    @torch.inference_mode()
    def ground_regions(
        self,
        images: RegionGrid,
        phrases: Sequence[Phrase],
        sizes: Sequence[Size],
        embeddings: Float[Tensor, "N D"] | None = None,
    ) -> list[list[Grounding]]:
        """One list per picture, one Grounding per phrase, every addend of its score given.

        sizes: of the upright originals, for boxes; embeddings: of the phrases, where already known.
        """
        if embeddings is None:
            embeddings = self.encode_texts([phrase.text for phrase in phrases])
        return self.examine(images, embeddings).groundings(phrases, sizes, self.calibration)

    @torch.inference_mode()
    def examine(self, images: RegionGrid, embeddings: Float[Tensor, "N D"]) -> Examined:
        """Every addend of the score of every picture and text. embeddings: of the texts, unit norm."""
        c = self.calibration
        explained = self.attention.explain(images.regions, embeddings, images.mask)
        pooled, hubness = images.pooled @ embeddings.T, self.hubness(images.pooled, embeddings)
        attended_scale = c.logit_scale * (1 - c.pooled_weight)
        return Examined(
            weights=explained.weights,
            null_weight=explained.null_weight,
            contributions=explained.contributions * attended_scale,
            rest={
                "null": explained.null_contribution * attended_scale,
                "pooled": pooled * (c.logit_scale * c.pooled_weight),
                "hubness": -c.logit_scale * hubness,
                "bias": torch.full_like(pooled, c.logit_bias),
            },
            scores=self.combine(explained.cosine, pooled, hubness),
            sizes=images.sizes,
        )
