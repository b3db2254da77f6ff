"""Hubness by hand, and that every part of xattn subtracts the same."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.color_model import color_model, paint
from xattn.engine import open_index
from xattn.model import XAttnModel
from xattn.model.hubness import Hubness


@pytest.fixture
def model() -> XAttnModel:
    """It has seen gray pictures and captions about gray most of all."""
    model = color_model()
    captions = model.encode_texts(["gray", "gray", "something gray", "red", "blue"])
    pictures = [paint((5, 7), color, {}) for color in ("gray", "gray", "blue")]
    model.hubness = Hubness(model.dim, scale=4.0)
    model.hubness.fill(captions, model.encode_images(pictures).pooled)
    return model


def test_by_hand() -> None:
    hubness = Hubness(2, scale=2.0)
    hubness.fill(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8]]))
    pooled, texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0]])
    near_one = math.log((math.exp(2.0) + 1.0) / 2) / 2
    near_both = math.log((math.exp(1.2) + math.exp(1.6)) / 2) / 2
    assert hubness.of_pictures(pooled).tolist() == pytest.approx([near_one, near_both])
    assert hubness.of_texts(texts).tolist() == pytest.approx([0.8])
    assert hubness(pooled, texts).flatten().tolist() == pytest.approx([near_one + 0.8, near_both + 0.8])


def test_no_bank_takes_nothing_away() -> None:
    assert not Hubness(3)(torch.ones(2, 3), torch.ones(4, 3)).any()
    with pytest.raises(ValueError, match="positive"):
        Hubness(3, scale=0.0)


def test_a_hub_loses_and_the_score_adds_up(model: XAttnModel) -> None:
    images = model.encode_images([paint((5, 7), "gray", {}), paint((5, 7), "red", {(1, 4): "gray"})])
    plain = color_model().score(images, ["something red"])
    found = model.score(images, ["something red"])
    shift = (found - plain)[:, 0] / model.calibration.logit_scale
    expected = -model.hubness(images.pooled, model.encode_texts(["something red"]))[:, 0]
    torch.testing.assert_close(shift, expected, atol=1e-5, rtol=0)
    assert shift[0] < shift[1], "the gray picture is the hub"


def test_the_first_stage_ranks_by_it(tmp_path: Path) -> None:
    """Candidates are the best by cosine less hubness, not by cosine."""
    model = color_model()
    (tmp_path / "photos").mkdir()
    paint((5, 7), "gray", {(0, 0): "red", (1, 1): "red"}).save(tmp_path / "photos" / "hub.png")
    paint((5, 7), "blue", {(0, 0): "red"}).save(tmp_path / "photos" / "other.png")
    for captions, expected in (([], "hub"), (["gray"], "other")):
        model.hubness.fill(model.encode_texts(captions), torch.zeros(0, model.dim))
        with open_index(tmp_path / f"index of {expected}", model) as engine:
            engine.add(tmp_path / "photos")
            (hit,) = engine.search("red", 1, candidates=1)
            assert hit.path.stem == expected
