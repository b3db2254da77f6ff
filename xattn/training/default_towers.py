"""The towers of the default model."""

from __future__ import annotations

from xattn.encoders.hybrid.text import SentenceEncoder
from xattn.encoders.hybrid.vision import HybridEncoder
from xattn.model import XAttnModel


def towers_of(model: XAttnModel) -> tuple[HybridEncoder, SentenceEncoder]:
    assert isinstance(model.vision, HybridEncoder)
    assert isinstance(model.text, SentenceEncoder)
    return model.vision, model.text
