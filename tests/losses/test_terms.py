"""The losses of training and its calibration, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.color_model import color_model, paint
from xattn.attention import attention_weights
from xattn.losses import absent_attention, box_attention, info_nce, presence_logits
from xattn.training.calibrate import calibrate, fit_platt, nothing_below, phrase_pairs
from xattn.types import Phrase

# Losses


def test_info_nce_by_hand() -> None:
    ln = math.log
    logits = torch.tensor([[ln(3), 0.0, 0.0], [0.0, ln(2), 0.0]])
    positives = torch.tensor([[True, False, True], [False, True, False]])
    # Rows: shares 3/5, 1/5, 1/5 and 1/4, 2/4, 1/4. Columns: 3/4 | 2/3 | 1/2 at the positives.
    rows = ((ln(5 / 3) + ln(5)) / 2 + ln(2)) / 2
    columns = (ln(4 / 3) + ln(3 / 2) + ln(2)) / 3
    assert info_nce(logits, positives).item() == pytest.approx((rows + columns) / 2)


def test_info_nce_leaves_out_what_has_no_positive() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = info_nce(logits, torch.tensor([[True, False], [False, False]]))
    assert loss.item() == pytest.approx(math.log(2))
    torch.autograd.backward(loss)
    assert logits.grad is not None
    # Text 1 and picture 1 are wrong answers: pushed down, each by half of the share it took.
    assert logits.grad.tolist() == [[pytest.approx(-0.5), pytest.approx(0.25)], [pytest.approx(0.25), 0.0]]


def test_box_attention_by_hand() -> None:
    weights = torch.tensor([[[0.5, 0.25, 0.125], [0.0, 0.5, 0.5]]])
    cover = torch.tensor([[1.0, 0.5, 0.0]])
    # Inside: 0.5 + 0.125 for one head, 0.25 for the other; null has the rest.
    inside = -(math.log(0.625) + math.log(0.25)) / 2
    assert box_attention(weights, cover).item() == pytest.approx(inside)


def test_even_box_attention_by_hand() -> None:
    weights = torch.tensor([[[0.5, 0.25, 0.125], [0.2, 0.1, 0.5]]])
    cover = torch.tensor([[1.0, 0.5, 0.0]])
    # A box that fills one region and half of the next asks for two thirds and one third.
    divergence = [
        2 / 3 * math.log(2 / 3 / first) + 1 / 3 * math.log(1 / 3 / second)
        for first, second in ((0.5, 0.25), (0.2, 0.1))
    ]
    assert box_attention(weights, cover, 1.0).item() == pytest.approx(sum(divergence) / 2)
    inside = -(math.log(0.625) + math.log(0.25)) / 2
    assert box_attention(weights, cover, 0.25).item() == pytest.approx(
        0.75 * inside + 0.25 * sum(divergence) / 2
    )


def test_absent_attention_by_hand() -> None:
    null = torch.tensor([[0.5, 0.25], [1.0, 1.0]])
    assert absent_attention(null).item() == pytest.approx(math.log(8) / 4)


def test_presence_is_attention_to_regions_against_attention_to_null() -> None:
    logits, null = torch.tensor([[1.0, -0.5, 2.0]]), torch.tensor([0.3])
    _, null_weight = attention_weights(logits, None, null)
    found = presence_logits(null_weight[:, None, None])
    assert found.item() == pytest.approx(torch.logsumexp(logits, -1).item() - 0.3, abs=1e-5)
    assert presence_logits(torch.tensor([[[0.0, 1.0]]])).item() == pytest.approx(0.0, abs=0.1)


def test_losses_of_nothing_cost_nothing_and_of_zero_weight_stay_finite() -> None:
    empty = torch.zeros(0, 2, 5, requires_grad=True)
    loss = box_attention(empty, torch.zeros(0, 5)) + absent_attention(empty[..., 0])
    torch.autograd.backward(loss)
    assert loss.item() == 0.0
    assert info_nce(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool)).item() == 0.0
    assert box_attention(torch.zeros(1, 1, 5), torch.ones(1, 5)).isfinite()
    assert absent_attention(torch.zeros(1, 1)).isfinite()


# Calibration


def test_platt_by_hand() -> None:
    """Cosines of two values: a scale and a bias reach any two probabilities, those of the targets."""
    cosines = np.array([1.0, 1, 1, 0, 1, 0, 0, 0])
    matched = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    scale, bias = fit_platt(cosines, matched, 0.5)
    # Targets 5/6 and 1/6, all pairs of one weight: (3·5/6 + 1/6)/4 = 2/3 at 1, 1/3 at 0.
    assert bias == pytest.approx(-math.log(2), abs=1e-4)
    assert scale == pytest.approx(2 * math.log(2), abs=1e-4)
    scale, bias = fit_platt(cosines, matched, 0.2)
    # A matched pair weighs 0.05, another 0.2: (3·0.05·5/6 + 0.2/6)/0.35 at 1, (0.05·5/6 + 0.6/6)/0.65 at 0.
    assert 1 / (1 + math.exp(-bias)) == pytest.approx((0.05 * 5 / 6 + 0.6 / 6) / 0.65, abs=1e-4)
    assert 1 / (1 + math.exp(-bias - scale)) == pytest.approx((0.15 * 5 / 6 + 0.2 / 6) / 0.35, abs=1e-4)


def test_nothing_below_by_hand() -> None:
    # Three texts, each with its own picture in its row. Best with it there: 0.9, 0.5, 0.3; without: 0.4,
    # 0.2, 0.3 (by the wrong picture, both times).
    probabilities = np.array([[0.9, 0.2, 0.1], [0.4, 0.5, 0.3], [0.3, 0.1, 0.2]])
    matched = np.eye(3, dtype=bool)
    # Below 0.3 one absent; at 0.4 two absent and one present; at 0.5 three and one; at 0.9 three and two.
    assert nothing_below(probabilities, matched, 1.0) == 0.3
    assert nothing_below(probabilities, matched, 0.75) == 0.5
    assert nothing_below(probabilities, matched, 0.5) == 0.9
    # Where the wrong pictures always win, nothing can be said.
    assert nothing_below(1 - probabilities, matched, 0.9) == 0.0


def test_platt_survives_what_separates_and_what_misleads() -> None:
    scale, bias = fit_platt(np.array([0.9, 0.8, 0.1, 0.0]), np.array([1, 1, 0, 0], bool), 0.5)
    assert 1 < scale < 100
    assert math.isfinite(bias)
    scale, _ = fit_platt(np.array([0.1, 0.0, 0.9, 0.8]), np.array([1, 1, 0, 0], bool), 0.5)
    assert scale > 0, "a score must not fall as the cosine rises"
    with pytest.raises(ValueError, match="3 and 0"):
        fit_platt(np.zeros(3), np.ones(3, bool), 0.5)


def test_which_phrases_a_picture_has_and_which_it_lacks() -> None:
    captions = [["A brown dog on a couch", "a dog"], ["a small dog in the snow"], ["a red bus"]]
    phrases, held, missing = phrase_pairs(captions)
    assert phrases == ["a brown dog", "a couch", "a dog", "a red bus", "a small dog", "the snow"]
    assert held.astype(int).tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0]]
    # Whether the second picture's dog is brown, or the first one's small, nobody said.
    assert missing.astype(int).tolist() == [[0, 0, 0, 1, 0, 1], [0, 1, 0, 1, 0, 0], [1, 1, 1, 0, 1, 1]]


def test_calibration_tells_what_is_there_from_what_is_not() -> None:
    model = color_model()
    colors = ["red", "blue", "green", "yellow"]
    pictures = model.encode_images([paint((6, 6), color, {}) for color in colors])
    captions = [[f"a {color} wall"] for color in colors]
    found = calibrate(model, pictures, captions, pooled_weight=0.5, matched_share=0.1)
    assert found == model.calibration
    assert found.phrase_scale > 0
    asked = [Phrase(f"a {color} wall", 0, 10, "noun") for color in colors]
    grounded = model.ground_regions(pictures, asked, [(60, 60)] * 4)
    probabilities = np.array([[g.probability for g in row] for row in grounded])
    assert probabilities.diagonal().min() > 0.5
    # Every wall is the same head noun, so no phrase was known to be missing, and nothing was fitted.
    assert (found.phrase_scale, found.phrase_bias, found.phrase_below) == (1.0, 0.0, 0.0)
    others = [["red paint"], ["a blue wall"], ["green grass"], ["yellow sand"]]
    found = calibrate(model, pictures, others, pooled_weight=0.5, matched_share=0.1)
    assert (found.phrase_scale, found.phrase_bias) != (1.0, 0.0)
    assert found.phrase_below > 0
    asked = [Phrase(some[0], 0, 4, "noun") for some in others]
    grounded = model.ground_regions(pictures, asked, [(60, 60)] * 4)
    probabilities = np.array([[g.probability for g in row] for row in grounded])
    assert probabilities.diagonal().min() > 0.5 > probabilities[~np.eye(4, dtype=bool)].max()
    assert all(row[n].found for n, row in enumerate(grounded))


def test_without_a_wrong_pair_the_calibration_stays() -> None:
    model = color_model()
    before = model.calibration
    pictures = model.encode_images([paint((6, 6), "red", {})] * 2)
    assert calibrate(model, pictures, [["red"], ["red"]], pooled_weight=0.5, matched_share=0.1) == before
