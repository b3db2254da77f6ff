"""The default text tower: a BERT sentence encoder and a head into the shared space.

MiniLM-L6 (Wang et al. 2020) as all-MiniLM-L6-v2 trained it (Reimers & Gurevych 2019, mean pooling). BERT
is a post-norm transformer, which torch has, so its weights are mapped onto torch's modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from xattn.encoders.base import TextEncoder
from xattn.errors import CheckpointError

__all__ = ["SentenceConfig", "SentenceEncoder", "TextHead", "Tokenizer", "read_tokenizer"]


@dataclass(frozen=True, slots=True)
class SentenceConfig:
    """Sizes of the sentence encoder; the defaults are MiniLM-L6's. dim: width D of what comes out."""

    dim: int = 256
    vocab_size: int = 30522
    width: int = 384
    num_layers: int = 6
    num_heads: int = 12
    feedforward: int = 1536
    max_tokens: int = 64


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json. Raises CheckpointError if it is missing or damaged."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{path} cannot be read: {error}") from error


class SentenceEncoder(TextEncoder):
    """Texts → unit-norm embeddings; longer texts are cut at max_tokens."""

    def __init__(self, config: SentenceConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.tokenizer = tokenizer
        tokenizer.enable_padding()
        tokenizer.enable_truncation(config.max_tokens)
        width = config.width
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.max_tokens, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        layer = nn.TransformerEncoderLayer(
            width,
            config.num_heads,
            config.feedforward,
            dropout=0.1,
            activation="gelu",
            layer_norm_eps=1e-12,
            batch_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)
        self.head = TextHead(width, config.dim)

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "N T"], Bool[Tensor, "N T"]]:
        """Token ids, padded to the longest text, and which of them are real."""
        encoded = self.tokenizer.encode_batch(list(texts))
        device = self.tokens.weight.device
        ids = torch.tensor([e.ids for e in encoded], device=device)
        valid = torch.tensor([e.attention_mask for e in encoded], device=device, dtype=torch.bool)
        return ids, valid

    def features(self, ids: Int[Tensor, "N T"], valid: Bool[Tensor, "N T"]) -> Float[Tensor, "N width"]:
        """Mean of the last layer's tokens, unit norm: what all-MiniLM-L6-v2 calls the embedding."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.tokens(ids) + self.positions(places))
        x = self.layers(x, src_key_padding_mask=~valid)
        mean = (x * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
        return F.normalize(mean, dim=-1)

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        if not texts:
            return self.tokens.weight.new_zeros(0, self.dim)
        return self.head(self.features(*self.tokenize(texts)))


class TextHead(nn.Module):
    """Sentence features → the shared space: a linear map with a nonlinear correction, unit norm."""

    SCALE = 8.0
    """Brings the entries of a unit vector of 384 numbers near the size that initialisation expects."""

    def __init__(self, width: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, dim)
        self.correction = nn.Sequential(
            nn.Linear(width, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
        )

    def forward(self, features: Float[Tensor, "N width"]) -> Float[Tensor, "N D"]:
        features = features * self.SCALE
        return F.normalize(self.linear(self.dropout(features)) + self.correction(features), dim=-1)
