"""How evaluation computes: as the model itself, in blocks of any size, and saying how far it is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.painted import FAST, many_fixture, model_fixture, painted_fixture, value  # noqa: F401  fixtures
from xattn.evaluation import Dataset, encoding, evaluate, scoring
from xattn.evaluation.encoding import EncodedPictures
from xattn.metrics import retrieval_ranks
from xattn.model import XAttnModel


def test_block_sizes_change_nothing(
    model: XAttnModel, many: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(model, many, settings=FAST).to_json()
    monkeypatch.setattr(scoring, "TEXTS_AT_ONCE", 7)
    monkeypatch.setattr(scoring, "PICTURES_AT_ONCE", 3)
    monkeypatch.setattr(encoding, "BATCH", 3)
    found = evaluate(model, many, settings=FAST).to_json()
    for a, b in zip(_numbers(json.loads(expected)), _numbers(json.loads(found)), strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [number for part in inner for number in _numbers(part)]
    return [value] if isinstance(value, int | float) else []


def test_scores_are_those_of_the_model(model: XAttnModel, many: Dataset) -> None:
    texts = scoring.encode_texts(model, ["red", "a green thing", "blue and pink", "nothing"])
    with torch.no_grad(), EncodedPictures(model, [record.image for record in many.records]) as encoded:
        grids = encoded.grids(range(20))
        found = scoring.score_pairs(model, grids, texts)
        expected = model.score(grids, texts).numpy()
        attention = model.attention.explain(grids.regions, texts, grids.mask).cosine.numpy()
    np.testing.assert_allclose(found.combined, expected, atol=1e-4)
    np.testing.assert_allclose(found.attention, attention, atol=1e-5)


def test_ranks_are_those_of_the_whole_matrix(model: XAttnModel, many: Dataset) -> None:
    report = evaluate(model, many, settings=FAST)
    owners = np.array([i for i, record in enumerate(many.records) for _ in record.captions])
    with EncodedPictures(model, [record.image for record in many.records]) as encoded:
        scores = model.score(encoded.grids(range(20)), [c for r in many.records for c in r.captions])
    # Ties of the model must stay ties however they were computed.
    ranks = retrieval_ranks(scores.double().numpy().round(4), owners)
    for k in (1, 5, 10):
        found = value(report, "text → image", f"recall@{k}", "two-stage")
        assert found == (ranks.text_to_image <= k).mean()
        found = value(report, "image → text", f"recall@{k}", "two-stage")
        assert found == (ranks.image_to_text <= k).mean()


def test_grids_come_back_as_encoded(model: XAttnModel, many: Dataset) -> None:
    pictures = [Image.open(record.image).convert("RGB") for record in many.records]
    expected = model.encode_images(pictures)
    with EncodedPictures(model, [record.image for record in many.records]) as encoded:
        order = [4, 0, 19, 7]
        found = encoded.grids(order)
        assert len(encoded) == 20
        assert len(encoded.grids([])) == 0
    assert found.regions.dtype == torch.float32
    for i, picture in enumerate(order):
        assert found.sizes[i] == expected.sizes[picture]
        torch.testing.assert_close(found[i].regions, expected[picture].regions, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found[i].pooled, expected[picture].pooled)


def test_progress(model: XAttnModel, painted: Dataset) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    def watch(what: str, done: int, total: int) -> None:
        seen.setdefault(what, []).append((done, total))

    evaluate(model, painted, settings=FAST, progress=watch)
    assert set(seen) == {
        "encoding pictures with colors",
        "scoring captions",
        "grounding categories",
        "grounding phrases",
    }
    assert all(counts[-1][0] == counts[-1][1] for counts in seen.values())
