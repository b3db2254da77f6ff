"""Losses of the recipe: batches, values and directions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from training.batches import Batch, Sampler
from training.objective import Objective, learning_rate_share, total
from training.photos import Photo
from training.recipe import Recipe
from xattn.attention import CrossAttention

GRID = (3, 4)
RECIPE = replace(Recipe(), batch_size=3, swaps=2, phrases=2)


def photos() -> list[Photo]:
    box = ((0.0, 0.0, 0.5, 1.0),)
    return [
        Photo(
            "a",
            "a-1",
            Path("1"),
            ("a red bus", "a bus by a tree"),
            {"a red bus": box, "a tree": box},
            {"bus": box},
        ),
        Photo("a", "a-2", Path("2"), ("a blue bus",), {"a blue bus": box}, {"dog": box}),
        Photo("b", "b-3", Path("3"), ("a man with a red hat",), {"a red hat": box}, {}),
    ]


def batch() -> Batch:
    return next(Sampler(photos(), [0, 0, 0], [GRID], RECIPE).epoch(0))


def inputs(of: Batch, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    regions = torch.randn(3, GRID[0] * GRID[1], 16, generator=generator)
    pooled = F.normalize(torch.randn(3, 16, generator=generator), dim=-1)
    return regions, pooled, F.normalize(torch.randn(len(of.texts), 16, generator=generator), dim=-1)


def objective() -> Objective:
    torch.manual_seed(0)
    return Objective(CrossAttention(16, 2), RECIPE)


def test_a_batch_says_what_matches_and_what_may() -> None:
    given = batch()
    by_key = {photo.key: b for b, photo in enumerate(given.photos)}
    texts = dict(
        zip(given.texts[given.num_captions :], range(given.num_captions, len(given.texts)), strict=False)
    )
    bus = texts.get("a bus")
    assert given.num_phrases >= 3
    if bus is not None and bus < given.num_captions + given.num_phrases:
        assert given.matches[by_key["a-1"], bus]
        assert given.unknown[by_key["a-2"], bus]  # a blue bus is a bus, which nobody annotated
        assert not given.unknown[by_key["b-3"], bus]
    assert not (given.matches & given.unknown).any()
    first = given.num_captions + given.num_phrases
    for n, swap in enumerate(given.swap_of.tolist(), first):
        if swap >= 0:
            assert given.owners[n] == given.owners[swap]
            assert given.texts[n] != given.texts[swap]


def test_only_searched_photos_have_absent_categories() -> None:
    given = batch()
    first = given.num_captions + given.num_phrases
    absent = [int(given.owners[first + n]) for n, swap in enumerate(given.swap_of.tolist()) if swap < 0]
    assert {given.photos[owner].source for owner in absent} == {"a"}


def test_the_same_seed_gives_the_same_batches() -> None:
    assert batch().texts == batch().texts


def test_losses_are_finite_and_reach_everything() -> None:
    given, loss = batch(), objective()
    regions, pooled, texts = (tensor.requires_grad_() for tensor in inputs(given))
    losses = loss(given, regions, pooled, texts)
    total(losses).backward()
    assert all(value.isfinite() for value in losses.values())
    for tensor in (regions, pooled, texts, loss.log_scales, *loss.attention.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


def test_a_right_text_nearer_to_its_photo_costs_less() -> None:
    given, loss = batch(), objective()
    regions, pooled, texts = inputs(given)
    near = texts.clone()
    near[: given.num_captions] = F.normalize(
        texts[: given.num_captions] + 4 * pooled[given.owners[: given.num_captions]], dim=-1
    )
    assert loss(given, regions, pooled, near)["pooled"] < loss(given, regions, pooled, texts)["pooled"]


def test_an_exchanged_text_like_the_photo_costs_more() -> None:
    given, loss = batch(), objective()
    regions, pooled, texts = inputs(given)
    first = given.num_captions + given.num_phrases
    near = texts.clone()
    near[first:] = F.normalize(texts[first:] + 4 * pooled[given.owners[first:]], dim=-1)
    assert loss(given, regions, pooled, near)["swaps"] > loss(given, regions, pooled, texts)["swaps"]


def test_pairs_that_may_be_true_cost_nothing() -> None:
    given, loss = batch(), objective()
    regions, pooled, texts = inputs(given)
    everywhere = replace(given, unknown=~given.matches)
    losses = loss(everywhere, regions, pooled, texts)
    only_own = losses["phrases"] / RECIPE.phrase_weight
    # What is left are the positives of a text that matches several photos, or a photo several texts.
    columns = given.matches[:, given.num_captions :].sum(0).clamp(min=1).log().mean()
    rows = given.matches[:, given.num_captions :].sum(1)
    assert only_own <= (columns + rows[rows > 0].log().mean()) / 2 + 1.0


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_the_learning_rate_rises_and_falls_to_zero(steps: int) -> None:
    shares = [learning_rate_share(step, steps, 5) for step in range(steps + 1)]
    assert max(shares) <= 1.0
    assert shares[-1] == pytest.approx(0.0, abs=1e-9)
    assert shares[0] == pytest.approx(0.2)


def test_total_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        total({})


def test_attention_read_without_weights_equals_the_one_with() -> None:
    torch.manual_seed(1)
    attention = CrossAttention(16, 2)
    torch.nn.init.normal_(attention.null_key)
    torch.nn.init.normal_(attention.null_value)
    regions, texts = torch.randn(2, 5 * 7, 16), F.normalize(torch.randn(4, 16), dim=-1)
    whole = attention(regions, texts)
    output, null_weight = attention.read(regions, texts)
    torch.testing.assert_close(output, whole.output, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(null_weight, whole.null_weight, rtol=1e-5, atol=1e-6)
