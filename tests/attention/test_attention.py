"""Attention: its softmax, its masks, and the decomposition of its cosine."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from xattn.attention import CrossAttention, attention_weights


def made(dim: int = 24, num_heads: int = 3, seed: int = 0) -> CrossAttention:
    torch.manual_seed(seed)
    attention = CrossAttention(dim, num_heads)
    for parameter in attention.parameters():  # no parameter may be at a value that hides a mistake
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def inputs(pictures: int = 3, regions: int = 35, texts: int = 4, dim: int = 24) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(pictures, regions, dim), F.normalize(torch.randn(texts, dim), dim=-1)


def test_weights_by_hand() -> None:
    weights, null = attention_weights(torch.tensor([0.0, 0.0, 0.0]).log1p(), null_logits=torch.tensor(0.0))
    assert weights.tolist() == pytest.approx([0.25, 0.25, 0.25])
    assert null.item() == pytest.approx(0.25)
    # e^ln2 : e^0 : e^0 = 2 : 1 : 1
    weights, null = attention_weights(torch.tensor([2.0, 1.0]).log(), null_logits=torch.tensor(0.0))
    assert weights.tolist() == pytest.approx([0.5, 0.25])
    assert null.item() == pytest.approx(0.25)


@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12),
    valid=st.integers(0, 12),
    null=st.none() | st.floats(-1e4, 1e4, width=32),
)
def test_weights_and_null_sum_to_one(logits: list[float], valid: int, null: float | None) -> None:
    mask = torch.arange(len(logits)) < valid
    null_logits = None if null is None else torch.tensor(null)
    weights, null_weight = attention_weights(torch.tensor(logits), mask, null_logits)
    assert (weights.sum() + null_weight).item() == pytest.approx(1.0, abs=1e-5)
    assert (weights[~mask] == 0).all()
    if null is None and mask.any():
        assert null_weight.item() == 0
    if not mask.any():
        assert null_weight.item() == pytest.approx(1.0)


def test_softmax_is_in_float32_for_half_inputs() -> None:
    weights, _ = attention_weights(torch.zeros(4000, dtype=torch.float16))
    assert weights.dtype == torch.float32
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_each_head_and_text_sums_to_one_over_regions() -> None:
    regions, texts = inputs()
    attended = made()(regions, texts)
    assert attended.weights.shape == (3, 4, 3, 35)
    total = attended.weights.sum(-1) + attended.null_weight
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("shift", [0.0, -50.0])
def test_padding_changes_nothing_even_with_all_logits_negative(shift: float) -> None:
    attention = made()
    regions, texts = inputs(pictures=1)
    if shift:  # a key that answers every query with a large negative logit
        with torch.no_grad():
            attention.null_key.fill_(0.0)
            query = attention.project_texts(texts).mean(0).flatten()
            attention.region_norm.bias.copy_(shift * torch.linalg.pinv(attention.key.weight) @ query)
        key, _ = attention.project_regions(regions)
        assert torch.einsum("nkd,bkrd->bnkr", attention.project_texts(texts), key)[:, :, :, 0].min() < 0
    padded = torch.cat([regions, torch.full((1, 9, 24), 7.0)], 1)
    mask = torch.arange(44)[None] < 35
    for one, other in (
        (attention.cosine(regions, texts), attention.cosine(padded, texts, mask)),
        (attention.explain(regions, texts).cosine, attention.explain(padded, texts, mask).cosine),
        (attention(regions, texts).weights, attention(padded, texts, mask).weights[..., :35]),
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert (attention(padded, texts, mask).weights[..., 35:] == 0).all()


def test_a_picture_without_any_region_is_all_null() -> None:
    regions, texts = inputs(pictures=1)
    explained = made().explain(regions, texts, torch.zeros(1, 35, dtype=torch.bool))
    assert torch.isfinite(explained.cosine).all()
    torch.testing.assert_close(explained.null_weight, torch.ones(1, 4))


@pytest.mark.parametrize("num_heads", [1, 3, 8])
def test_explain_adds_up_to_what_training_computes(num_heads: int) -> None:
    attention = made(num_heads=num_heads)
    regions, texts = inputs()
    mask = torch.arange(35) < torch.tensor([35, 20, 1])[:, None]
    explained = attention.explain(regions, texts, mask)
    torch.testing.assert_close(explained.cosine, attention.cosine(regions, texts, mask), atol=1e-5, rtol=0)
    total = explained.contributions.sum(-1) + explained.null_contribution
    torch.testing.assert_close(total, explained.cosine)
    weights = attention(regions, texts, mask).weights.mean(2)
    torch.testing.assert_close(explained.weights, weights, atol=1e-5, rtol=0)
    assert (explained.contributions[1, :, 20:] == 0).all()


def test_removing_a_region_removes_its_addend_from_the_numerator() -> None:
    """The addend is the region's own: with weights held, the numerator changes by exactly that."""
    attention = made(num_heads=1)
    regions, texts = inputs(pictures=1, texts=1)
    attended = attention(regions, texts)
    _, value = attention.project_regions(regions)
    norm = attended.output.norm()
    for region in (0, 17, 34):
        addend = attention.out(attended.weights[0, 0, 0, region] * value[0, 0, region]) @ texts[0] / norm
        found = attention.explain(regions, texts).contributions[0, 0, region]
        torch.testing.assert_close(found, addend, atol=1e-6, rtol=1e-4)


def test_a_planted_region_is_found_in_its_cell() -> None:
    """5×7 grid: the region that equals the text's query gets the weight, at row 3, column 2."""
    attention = CrossAttention(8, 1)
    with torch.no_grad():
        for linear in (attention.query, attention.key, attention.value, attention.out):
            linear.weight.copy_(torch.eye(8))
        attention.query.weight.mul_(20)
    texts = F.normalize(torch.tensor([[1.0, -1, 0, 0, 0, 0, 0, 0]]), dim=-1)
    regions = torch.randn(1, 35, 8, generator=torch.Generator().manual_seed(3)) * 0.1
    regions[:, :, 7] += 1  # the background looks elsewhere
    regions[0, 3 * 7 + 2] = texts[0]
    grid = attention.explain(regions, texts).weights[0, 0].view(5, 7)
    assert divmod(int(grid.argmax()), 7) == (3, 2)
    assert grid[3, 2] > 0.9


def test_heads_must_divide_width() -> None:
    with pytest.raises(ValueError, match="divisor of 24, got 5"):
        CrossAttention(24, 5)


def test_empty_batches() -> None:
    regions, texts = inputs()
    attention = made()
    assert attention.explain(regions[:0], texts).cosine.shape == (0, 4)
    assert attention.explain(regions, texts[:0]).cosine.shape == (3, 0)
    assert attention.cosine(regions[:0], texts).shape == (0, 4)


def test_identity_attention_reads_by_cosine_and_explains_itself():
    torch.manual_seed(0)
    attention = CrossAttention.identity(6, temperature=20.0)
    regions, texts = 3 * torch.randn(2, 5, 6), torch.nn.functional.normalize(torch.randn(3, 6), dim=-1)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    with torch.no_grad():
        found = attention(regions, texts, mask)
        explained = attention.explain(regions, texts, mask)
    unit = regions / regions.norm(dim=-1, keepdim=True)
    odds = (20 * torch.einsum("nd,brd->bnr", texts, unit)).exp() * mask[:, None]
    weights = odds / (1 + odds.sum(-1, keepdim=True))  # null stands at cosine 0
    torch.testing.assert_close(found.weights[:, :, 0], weights, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(explained.weights, weights, atol=1e-5, rtol=1e-4)
    output = torch.einsum("bnr,brd->bnd", weights, unit)
    torch.testing.assert_close(found.output, output, atol=1e-5, rtol=1e-4)
    cosine = torch.cosine_similarity(output, texts, dim=-1)
    torch.testing.assert_close(explained.cosine, cosine, atol=1e-5, rtol=1e-4)


def test_unknown_norms_are_refused():
    with pytest.raises(ValueError, match="valid are layer, unit"):
        CrossAttention(6, 2, norm="batch")
