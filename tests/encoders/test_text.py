"""The default text tower: what its head sees of a text."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch.nn import functional as F

from xattn.encoders.hybrid.text import SentenceConfig, SentenceEncoder

WIDTH = 24
TEXTS = ["red", "a red bus", "a dog on blue grass", "a a a bus"]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    torch.manual_seed(0)
    words = sorted({word for text in TEXTS for word in text.split()})
    tokenizer = Tokenizer(
        WordLevel({word: i for i, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = Whitespace()
    config = SentenceConfig(
        dim=16, vocab_size=len(words) + 1, width=WIDTH, num_layers=4, num_heads=3, feedforward=48
    )
    return SentenceEncoder(config, tokenizer).eval()


def parts(encoder: SentenceEncoder, texts: list[str]) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        return encoder.features(*encoder.tokenize(texts)).split(WIDTH, -1)


def test_three_parts_of_unit_norm(encoder: SentenceEncoder) -> None:
    encoder.centers.zero_()
    assert encoder.feature_width == 3 * WIDTH
    found = parts(encoder, TEXTS)
    for part in found:
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(len(TEXTS)))
    with torch.inference_mode():
        features = encoder.features(*encoder.tokenize(TEXTS))
    assert torch.equal(encoder.sentences(features), found[0])


def test_words_are_the_mean_of_the_word_pieces_in_any_order(encoder: SentenceEncoder) -> None:
    encoder.centers.zero_()
    row = encoder.tokenizer.token_to_id
    table = encoder.tokens.weight.detach()
    expected = (table[row("a")] + table[row("red")] + table[row("bus")]) / 3
    for text in ("a red bus", "bus a red"):
        torch.testing.assert_close(parts(encoder, [text, *TEXTS])[1][0], F.normalize(expected, dim=-1))
    first, second = (parts(encoder, [text])[2][0] for text in ("a red bus", "bus a red"))
    assert not torch.allclose(first, second, atol=1e-3), "the middle layer knows of the order"


def test_middle_is_after_half_of_the_layers(encoder: SentenceEncoder) -> None:
    encoder.centers.zero_()
    ids, valid = encoder.tokenize(["a dog on blue grass"])
    with torch.inference_mode():
        x = encoder.norm(encoder.tokens(ids) + encoder.positions(torch.arange(ids.shape[1])))
        for layer in list(encoder.layers.layers)[:2]:
            x = layer(x)
        expected = F.normalize(x.mean(1), dim=-1)
        found = encoder.features(ids, valid)[:, 2 * WIDTH :]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_padding_changes_nothing(encoder: SentenceEncoder) -> None:
    encoder.measure_centers(TEXTS)
    together = torch.cat(parts(encoder, TEXTS), -1)
    for row, text in enumerate(TEXTS):
        alone = torch.cat(parts(encoder, [text]), -1)[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)


def test_centers_are_what_the_texts_have_in_common(encoder: SentenceEncoder) -> None:
    encoder.measure_centers(TEXTS[:1])
    _, words, middle = parts(encoder, TEXTS[:1])
    # Of one text nothing is left: what is not exactly zero is rounding, brought to unit norm.
    encoder.measure_centers(TEXTS, batch_size=3)
    halves = [encoder.centers.clone()]
    encoder.measure_centers([*TEXTS, *TEXTS])
    torch.testing.assert_close(encoder.centers, halves[0])
    for part in parts(encoder, TEXTS)[1:]:
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(len(TEXTS)))
    assert not torch.allclose(words, parts(encoder, TEXTS[:1])[1])
    assert not torch.allclose(middle, parts(encoder, TEXTS[:1])[2])
    assert "centers" in encoder.state_dict()
