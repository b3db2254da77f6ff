"""What the model asks of its towers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from xattn.types import RegionGrid

Frames = tuple[Tensor, ...]
"""One picture, resized for a vision encoder: uint8 [3, h, w] tensors, meaningful only to the encoder
that made them. The sizes depend on the picture's aspect ratio."""


class VisionEncoder(nn.Module, ABC):
    """Picture → regions and one pooled embedding.

    dim: width D; longest_side: pixels beyond which more detail in a picture changes nothing;
    signature: what besides the weights decides what comes out, "" if nothing does.
    """

    dim: int
    longest_side: int
    signature: str = ""

    @abstractmethod
    def preprocess(self, picture: Image.Image) -> Frames:
        """Resizes an upright RGB picture. Safe to call from several threads at once."""

    @abstractmethod
    def forward(self, batch: Sequence[Frames]) -> RegionGrid:
        """Encodes pictures of any mix of sizes, in the order given."""


class TextEncoder(nn.Module, ABC):
    """Text → one unit-norm embedding of width D. signature: as of `VisionEncoder`."""

    dim: int
    signature: str = ""

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> Float[Tensor, "N D"]: ...
