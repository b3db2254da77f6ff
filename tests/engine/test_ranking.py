"""Stage 2: one pass over the candidates, whatever their number and parts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.color_model import color_model, paint
from xattn.engine.ranking import rank
from xattn.store.schema import Content
from xattn.types import Phrase, RegionGrid

COLORS = ["red", "blue", "green", "yellow", "red", "gray", "red", "blue"]
PHRASES = [Phrase("red", 0, 3, "whole"), Phrase("blue", 0, 4, "noun")]


def content(number: int) -> Content:
    return Content(number, (50, 70), (5, 7), shard=0, first_row=0, pooled=np.zeros(3, np.float32))


@pytest.mark.parametrize("part", [1, 3, 8])
@pytest.mark.parametrize("k", [1, 2, 5, 20])
@pytest.mark.parametrize("num_phrases", [1, 2])
def test_the_best_are_those_of_all_at_once(part: int, k: int, num_phrases: int) -> None:
    model = color_model()
    grid = model.encode_images([paint((5, 7), c, {(1, n % 7): "red"}) for n, c in enumerate(COLORS)])
    phrases = PHRASES[:num_phrases]
    embeddings = model.encode_texts([phrase.text for phrase in phrases])
    asked: list[int] = []

    def parts():
        for start in range(0, len(COLORS), part):
            rows = list(range(start, min(start + part, len(COLORS))))
            asked.extend(rows)
            yield [content(row) for row in rows], grid.take(rows)

    best = sorted(
        rank(model, parts(), phrases, embeddings, k), key=lambda r: (-r.score, r.content.content_id)
    )
    scores = model.score(grid, embeddings[:1])[:, 0].numpy()
    expected = np.argsort(-scores, kind="stable")[:k]
    np.testing.assert_allclose([r.score for r in best][:k], scores[expected], rtol=1e-5, atol=1e-6)
    assert asked == list(range(len(COLORS))), "each candidate is read once"
    whole = model.ground_regions(grid, phrases, [(50, 70)] * len(COLORS))
    for ranked in best:
        for ours, theirs in zip(ranked.groundings, whole[ranked.content.content_id], strict=True):
            np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-6)
            assert ours.contributions.sum() + sum(ours.rest.values()) == pytest.approx(ours.score, abs=1e-4)


def test_ties_with_the_last_are_kept() -> None:
    model = color_model()
    grid = model.encode_images([paint((5, 7), "red")] * 4)
    embeddings = model.encode_texts(["red"])
    parts = [([content(row)], grid.take([row])) for row in range(4)]
    assert len(rank(model, parts, PHRASES[:1], embeddings, 2)) == 4


def test_no_candidates_no_best() -> None:
    model = color_model()
    empty = RegionGrid.take(model.encode_images([paint((5, 7), "red")]), [])
    assert rank(model, [([], empty)], PHRASES[:1], model.encode_texts(["red"]), 3) == []
