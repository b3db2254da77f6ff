"""The default text tower: a BERT sentence encoder and a head into the shared space.

MiniLM-L6 (Wang et al. 2020) as all-MiniLM-L6-v2 trained it (Reimers & Gurevych 2019, mean pooling). BERT
is a post-norm transformer, which torch has, so its weights are mapped onto torch's modules. The head sees
more than the sentence embedding, which tells the gist and lets go of words: also the average of the word
pieces before any layer, and of the middle layer's tokens. Both are there anyway.
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
    """Texts → unit-norm embeddings; longer texts are cut at max_tokens.

    centers: what all texts have in common before any layer and after the middle one, which is most of it
    and is taken off; measured on the training texts (`measure_centers`)
    """

    centers: Tensor

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
        self.register_buffer("centers", torch.zeros(2, width))
        self.head = TextHead(self.feature_width, config.dim)

    @property
    def feature_width(self) -> int:
        """Of `features`: three parts, each of the tower's width."""
        return 3 * self.config.width

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "N T"], Bool[Tensor, "N T"]]:
        """Token ids, padded to the longest text, and which of them are real."""
        encoded = self.tokenizer.encode_batch(list(texts))
        device = self.tokens.weight.device
        ids = torch.tensor([e.ids for e in encoded], device=device)
        valid = torch.tensor([e.attention_mask for e in encoded], device=device, dtype=torch.bool)
        return ids, valid

    def features(self, ids: Int[Tensor, "N T"], valid: Bool[Tensor, "N T"]) -> Float[Tensor, "N features"]:
        """What the head sees: the sentence embedding, the words and the middle layer, each of unit norm."""
        return self.join(*self._states(ids, valid), valid)

    def join(
        self,
        words: Float[Tensor, "N T width"],
        middle: Float[Tensor, "N T width"],
        last: Float[Tensor, "N T width"],
        valid: Bool[Tensor, "N T"],
    ) -> Float[Tensor, "N features"]:
        """`features` from the tokens before any layer, after the middle one and after the last."""
        means = [_mean(tokens, valid) for tokens in (last, words, middle)]
        parts = (means[0], means[1] - self.centers[0], means[2] - self.centers[1])
        return torch.cat([F.normalize(part, dim=-1) for part in parts], -1)

    def sentences(self, features: Float[Tensor, "N features"]) -> Float[Tensor, "N width"]:
        """Of these the sentence embeddings, as all-MiniLM-L6-v2 gives them."""
        return features[:, : self.config.width]

    @torch.no_grad()
    def measure_centers(self, texts: Sequence[str], batch_size: int = 256) -> None:
        """Sets `centers` to what these texts have in common."""
        starts = range(0, len(texts), batch_size)
        sums = torch.zeros_like(self.centers)
        for start in starts:
            ids, valid = self.tokenize(texts[start : start + batch_size])
            words, middle, _ = self._states(ids, valid)
            sums += torch.stack([_mean(words, valid).sum(0), _mean(middle, valid).sum(0)])
        self.centers.copy_(sums / len(texts))

    def _states(
        self, ids: Int[Tensor, "N T"], valid: Bool[Tensor, "N T"]
    ) -> tuple[Float[Tensor, "N T width"], Float[Tensor, "N T width"], Float[Tensor, "N T width"]]:
        """The word pieces themselves, the middle layer's tokens and the last one's."""
        words = self.tokens(ids)
        x = self.norm(words + self.positions(torch.arange(ids.shape[1], device=ids.device)))
        states = [x]
        for layer in self.layers.layers:
            states.append(layer(states[-1], src_key_padding_mask=~valid))
        return words, states[len(self.layers.layers) // 2], states[-1]

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        if not texts:
            return self.tokens.weight.new_zeros(0, self.dim)
        return self.head(self.features(*self.tokenize(texts)))


def _mean(tokens: Float[Tensor, "N T width"], valid: Bool[Tensor, "N T"]) -> Float[Tensor, "N width"]:
    weights = valid[..., None]
    return (tokens * weights).sum(1) / weights.sum(1)


class TextHead(nn.Module):
    """What `features` gives → the shared space: a linear map with a nonlinear correction, unit norm."""

    SCALE = 8.0
    """Brings the entries of unit vectors of 384 numbers to about the size that initialisation expects."""

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
