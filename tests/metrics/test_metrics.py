"""Metrics, counted by hand, and against slow reference versions on random input."""

from __future__ import annotations

import doctest
import tracemalloc
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xattn import metrics
from xattn.geometry import area_share
from xattn.metrics import calibration, grounding, intervals, retrieval
from xattn.metrics.intervals import bootstrap_interval, paired_difference


@pytest.mark.parametrize("module", [retrieval, grounding, calibration, intervals])
def test_worked_examples(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


# --- retrieval --------------------------------------------------------------------------------------

# Four pictures; the third has no text, the first two, the others one. Columns are texts.
SCORES = np.array(
    [
        [0.9, 0.2, 0.3, 0.1],
        [0.1, 0.2, 0.8, 0.9],
        [0.9, 0.1, 0.5, 0.2],
        [0.3, 0.4, 0.8, 0.5],
    ]
)
OWNERS = np.array([0, 0, 1, 3])


def test_ranks_counted_by_hand() -> None:
    ranks = metrics.retrieval_ranks(SCORES, OWNERS)
    # Text 0: .9 ties with picture 2. Text 1: .2 ties with picture 1, and .4 is above. Text 2: .8 ties
    # with picture 3. Text 3: .5, and .9 is above.
    assert ranks.text_to_image.tolist() == [2, 3, 2, 2]
    # Picture 0: its best text, .9, beats .3 and .1. Picture 1: .8 loses to .9. Picture 3: .5 loses to .8;
    # .3 and .4 are below. Picture 2 has no text.
    assert ranks.captioned.tolist() == [0, 1, 3]
    assert ranks.image_to_text.tolist() == [1, 2, 2]


def test_other_texts_of_the_same_picture_are_no_wrong_answers() -> None:
    scores = np.array([[0.5, 0.9, 0.7, 0.6]])
    assert metrics.retrieval_ranks(scores, np.zeros(4, int)).image_to_text.tolist() == [1]


def test_a_model_without_preference_finds_nothing() -> None:
    ranks = metrics.retrieval_ranks(np.zeros((7, 10)), np.arange(10) % 7)
    assert metrics.recall_at_k(ranks.text_to_image, 6) == 0
    assert metrics.recall_at_k(ranks.image_to_text, 5) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        metrics.text_ranks(np.array([[bad], [0.0]]), np.array([0]))


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 9), st.integers(1, 4))
def test_ranks_in_blocks_are_the_ranks(seed: int, num_images: int, num_texts: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (num_images, num_texts)).astype(float)  # many ties
    owners = rng.integers(0, num_images, num_texts)
    counter = metrics.RankCounter(owners, scores[owners, np.arange(num_texts)], num_images)
    for start in range(0, num_texts, block):
        texts = slice(start, start + block)
        counter.add(texts, scores[:, texts])
    ranks = counter.ranks()

    for text, owner in enumerate(owners):
        others = np.delete(scores[:, text], owner)
        assert ranks.text_to_image[text] == 1 + (others >= scores[owner, text]).sum()
    for rank, image in zip(ranks.image_to_text, ranks.captioned, strict=True):
        own = owners == image
        assert rank == 1 + (scores[image, ~own] >= scores[image, own].max()).sum()


def test_tolerance_makes_near_scores_equal() -> None:
    scores, owners = np.array([[0.5, 0.1], [0.4999, 0.3]]), np.array([0, 1])
    assert metrics.text_ranks(scores, owners).tolist() == [1, 1]
    assert metrics.text_ranks(scores, owners, tolerance=1e-3).tolist() == [2, 1]
    counter = metrics.RankCounter(owners, np.array([0.5005, 0.3]), 2, tolerance=1e-3)
    counter.add(slice(0, 2), scores)
    assert counter.ranks().image_to_text.tolist() == [1, 2]


def test_memory_of_ranks_is_that_of_one_block() -> None:
    num_images, num_texts, block = 500, 20_000, 100
    owners = np.repeat(np.arange(num_images), num_texts // num_images)
    rng = np.random.default_rng(0)
    tracemalloc.start()
    counter = metrics.RankCounter(owners, np.full(num_texts, 0.5, np.float32), num_images, 1.0)
    for start in range(0, num_texts, block):
        counter.add(slice(start, start + block), rng.random((num_images, block), np.float32))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * num_images * block + 100 * num_texts < num_images * num_texts * 4 / 10


def test_two_stage_ranks_counted_by_hand() -> None:
    first = np.array([[0.9], [0.8], [0.7], [0.1]])
    second = np.array([[0.1], [0.5], [0.5], [0.9]])

    def rank(owner: int, candidates: int) -> int:
        return int(metrics.two_stage_ranks(first, second, np.array([owner]), candidates)[0])

    assert [rank(owner, 3) for owner in range(4)] == [3, 2, 2, 4]  # 1 and 2 tie; 3 is not proposed
    assert [rank(owner, 2) for owner in range(4)] == [2, 1, 3, 4]
    assert [rank(owner, 1) for owner in range(4)] == [1, 2, 3, 4]  # the first stage's order
    assert [rank(owner, 9) for owner in range(4)] == [4, 3, 3, 1]  # the second stage's order
    with pytest.raises(ValueError, match="candidates"):
        rank(0, 0)


def test_two_stages_with_every_picture_proposed_are_the_second() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 6, 8))
    owners = rng.integers(0, 6, 8)
    expected = metrics.text_ranks(second, owners)
    assert metrics.two_stage_ranks(first, second, owners, 6).tolist() == expected.tolist()


def test_recall_and_median() -> None:
    ranks = np.array([1, 5, 6, 2, 11, 1])
    assert [metrics.recall_at_k(ranks, k) for k in (1, 5, 10, 11)] == [2 / 6, 4 / 6, 5 / 6, 1]
    assert metrics.median_rank(ranks) == 3.5
    assert np.isnan(metrics.recall_at_k(ranks[:0], 1))
    assert np.isnan(metrics.median_rank(ranks[:0]))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1))
def test_weighted_median_is_the_median_of_repeated_values(pairs: list[tuple[int, int]]) -> None:
    values, weights = (np.array(column) for column in zip(*pairs, strict=True))
    repeated = np.repeat(values, weights)
    expected = float(np.median(repeated)) if len(repeated) else float("nan")
    assert metrics.median_rank(values, weights) == pytest.approx(expected, nan_ok=True)


# --- grounding --------------------------------------------------------------------------------------


def test_pointing_game_on_a_grid_that_is_not_square() -> None:
    weights = np.zeros((3, 5))
    weights[2, 1] = 1  # centre at x = .3, y = 5/6
    assert metrics.pointing_game(weights, np.array([[0.2, 0.7, 0.4, 1]])) == 1
    assert metrics.pointing_game(weights, np.array([[0.7, 0.2, 1, 0.4]])) == 0  # x and y exchanged
    assert metrics.pointing_game(weights, np.array([[0.31, 0, 1, 1]])) == 0
    assert metrics.pointing_game(weights, np.array([[0.31, 0, 1, 1]]), tolerance=0.02) == 1
    assert metrics.pointing_game(weights, np.array([[0.3, 0, 1, 1]])) == 1  # the edge is inside
    assert metrics.pointing_game(weights, np.array([[0.9, 0, 1, 1], [0, 0.8, 0.5, 1]])) == 1  # any box


def test_pointing_game_of_a_constant_map_is_chance() -> None:
    box = np.array([[0, 0, 0.5, 1.0]])
    assert metrics.pointing_game(np.full((5, 4), 0.05), box) == 0.5 == area_share(box)
    assert metrics.pointing_game(np.zeros((5, 4)), box) == 0.5


def test_box_accuracy() -> None:
    a = np.array([[0, 0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.8]])
    b = np.array([[0.25, 0, 0.75, 0.5], [0, 0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.8]])
    assert metrics.box_accuracy(a[:1], b[:1]) == 0
    assert metrics.box_accuracy(a[:1], b[:1], threshold=1 / 3) == 1
    assert metrics.box_accuracy(a[:1], b[:2]) == 1
    assert (
        metrics.box_accuracy(np.array([[0.9, 0.9, 1, 1], [0, 0, 0.5, 0.5]]), b[:2]) == 0
    )  # the first counts


# --- probabilities ----------------------------------------------------------------------------------


def test_calibration_error_counted_by_hand() -> None:
    probabilities = np.array([0.05, 0.15, 0.95, 0.95, 1.0])
    outcomes = np.array([0, 1, 1, 0, 1])
    # Ten bins: .05 is off by .05, .15 by .85; the last bin states .95 + .95 + 1 = 2.9 and has 2 of 3.
    expected = (0.05 + 0.85 + 0.9) / 5
    found = metrics.expected_calibration_error(probabilities, outcomes, num_bins=10)
    assert found == pytest.approx(expected)
    weights = np.array([1, 0, 1, 1, 1])
    found = metrics.expected_calibration_error(probabilities, outcomes, weights, num_bins=10)
    assert found == pytest.approx((0.05 + 0.9) / 4)


def test_calibration_error_of_true_probabilities_is_small() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random(50_000)
    outcomes = rng.random(50_000) < probabilities
    assert metrics.expected_calibration_error(probabilities, outcomes) < 0.02
    assert metrics.expected_calibration_error(probabilities**3, outcomes) > 0.2


def test_precision_and_recall() -> None:
    predicted = np.array([True, True, True, False, False])
    actual = np.array([True, False, False, True, False])
    assert metrics.precision(predicted, actual) == pytest.approx(1 / 3)
    assert metrics.recall(predicted, actual) == pytest.approx(1 / 2)
    weights = np.array([2, 1, 0, 3, 9])
    assert metrics.precision(predicted, actual, weights) == pytest.approx(2 / 3)
    assert metrics.recall(predicted, actual, weights) == pytest.approx(2 / 5)
    assert np.isnan(metrics.precision(~(predicted | True), actual))


# --- uncertainty ------------------------------------------------------------------------------------


def test_interval_of_a_share_is_the_textbook_one() -> None:
    values = (np.arange(400) % 4 == 0).astype(float)
    value, low, high = bootstrap_interval(values, np.arange(400))
    half_width = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert value == 0.25
    assert low == pytest.approx(0.25 - half_width, abs=0.01)
    assert high == pytest.approx(0.25 + half_width, abs=0.01)


def test_pictures_are_resampled_not_their_captions() -> None:
    """Ten captions that all succeed or fail together tell no more than one."""
    one_each = (np.arange(100) % 2).astype(float)
    together = np.repeat(one_each, 10)
    a = bootstrap_interval(one_each, np.arange(100))
    b = bootstrap_interval(together, np.repeat(np.arange(100), 10))
    apart = bootstrap_interval(together, np.arange(1000))
    assert b == pytest.approx(a)
    assert apart.high - apart.low < 0.5 * (b.high - b.low)


def test_other_statistics_and_seeds() -> None:
    values = np.random.default_rng(0).integers(1, 50, 300)
    pictures = np.repeat(np.arange(100), 3)

    def mean(values: np.ndarray, weights: np.ndarray) -> float:
        return float(np.average(values, weights=weights))

    assert bootstrap_interval(values, pictures, mean) == pytest.approx(bootstrap_interval(values, pictures))
    median = bootstrap_interval(values, pictures, metrics.median_rank)
    assert median.low < median.value == np.median(values) < median.high
    assert bootstrap_interval(values, pictures, seed=1) != bootstrap_interval(values, pictures)
    assert np.isnan(bootstrap_interval(values[:0], pictures[:0])).all()


def test_a_statistic_that_is_sometimes_undefined() -> None:
    values = np.array([[1, 1], [0, 0]], bool)

    def precise(values: np.ndarray, weights: np.ndarray) -> float:
        return metrics.precision(values[:, 0], values[:, 1], weights)

    assert bootstrap_interval(values, np.arange(2), precise) == (1, 1, 1)
    assert np.isnan(bootstrap_interval(values[1:], np.arange(1), precise)).all()


def test_paired_difference_cancels_what_is_hard_for_both() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.random(300)
    a, b = difficulty + 0.02 + 0.01 * rng.random(300), difficulty
    found = paired_difference(a, b, np.arange(300))
    assert found.value == pytest.approx((a - b).mean())
    assert 0.02 < found.low < found.value < found.high < 0.03
    assert found.p_value < 0.01
    single = bootstrap_interval(a, np.arange(300))
    assert single.high - single.low > 10 * (found.high - found.low)
    assert paired_difference(b, a, np.arange(300)).value == pytest.approx(-found.value)


def test_equal_models_do_not_differ() -> None:
    values = np.random.default_rng(0).random(50)
    assert paired_difference(values, values, np.arange(50)) == (0, 0, 0, 1)
    noise = np.random.default_rng(1).normal(size=50)
    assert paired_difference(values + noise - noise.mean(), values, np.arange(50)).p_value > 0.5
    assert np.isnan(paired_difference(values[:0], values[:0], np.arange(0))).all()
