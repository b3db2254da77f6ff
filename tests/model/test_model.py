"""The model: scores, groundings, and that every score is the sum of its parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.color_model import color_model, paint
from xattn.attention import CrossAttention
from xattn.model import Calibration, XAttnModel
from xattn.types import Phrase, RegionGrid


@pytest.fixture(scope="module")
def model() -> XAttnModel:
    return color_model()


@pytest.fixture(scope="module")
def images(model: XAttnModel) -> RegionGrid:
    return model.encode_images(
        [
            paint((5, 7), "blue", {(1, 4): "red"}),
            paint((7, 5), "green", {(6, 0): "yellow", (0, 3): "red"}),
            paint((6, 6), "white", {}),
        ]
    )


def phrases(*texts: str) -> list[Phrase]:
    return [Phrase(text, 0, len(text), "whole") for text in texts]


def test_scores_rank_the_right_picture_first(model: XAttnModel, images: RegionGrid) -> None:
    scores = model.score(images, ["blue", "yellow", "white"])
    assert scores.shape == (3, 3)
    assert scores.argmax(0).tolist() == [0, 1, 2]


def test_every_part_of_a_grounding_adds_up(model: XAttnModel, images: RegionGrid) -> None:
    texts = ["red", "a yellow thing", "purple"]
    scores = model.score(images, texts)
    grounded = model.ground_regions(images, phrases(*texts), [(50, 70), (70, 50), (60, 60)])
    for picture, row in enumerate(grounded):
        for text, grounding in enumerate(row):
            assert grounding.weights.shape == images.sizes[picture]
            assert grounding.weights.sum() + grounding.null_weight == pytest.approx(1, abs=1e-5)
            total = grounding.contributions.sum() + sum(grounding.rest.values())
            assert total == pytest.approx(grounding.score, abs=1e-4)
            assert grounding.score == pytest.approx(scores[picture, text].item(), abs=1e-4)
            assert grounding.probability == pytest.approx(1 / (1 + np.exp(-grounding.score)), abs=1e-5)


def test_a_phrase_has_a_probability_of_its_own(images: RegionGrid) -> None:
    model = color_model()
    model.calibration = replace(model.calibration, phrase_scale=0.5, phrase_bias=2.0)
    low = replace(model.calibration, phrase_below=1.0)
    asked = [Phrase("red", 0, 3, source) for source in ("whole", "noun", "bracket")]
    whole, *parts = model.ground_regions(images, asked, [(50, 70), (70, 50), (60, 60)])[0]
    assert whole.probability == pytest.approx(1 / (1 + np.exp(-whole.score)), abs=1e-5)
    for part in parts:
        assert part.score == pytest.approx(whole.score, abs=1e-5)
        assert part.probability == pytest.approx(1 / (1 + np.exp(-(0.5 * part.score + 2))), abs=1e-5)
        assert part.found, "no threshold was fitted"
    model.calibration = low
    found = [g.found for g in model.ground_regions(images, asked, [(50, 70), (70, 50), (60, 60)])[0]]
    assert found == [True, False, False], "a whole text is not judged by it"


def test_a_padded_batch_gives_what_each_picture_gives_alone(model: XAttnModel, images: RegionGrid) -> None:
    alone = torch.cat([model.score(images[i], ["red", "green"]) for i in range(3)])
    torch.testing.assert_close(model.score(images, ["red", "green"]), alone)


def test_ground_finds_the_planted_cell(model: XAttnModel) -> None:
    (grounding,) = model.ground(paint((5, 7), "blue", {(1, 4): "red"}), ["red"])
    assert np.unravel_index(grounding.weights.argmax(), grounding.weights.shape) == (1, 4)


def test_what_is_absent_goes_to_null(model: XAttnModel) -> None:
    present, absent = model.ground(paint((5, 7), "blue", {(1, 4): "red"}), ["red", "yellow"])
    assert present.null_weight < 0.1
    assert absent.null_weight > 0.9
    assert (present.found, absent.found) == (True, False)


def test_fingerprint_tells_weights_apart_and_nothing_else(model: XAttnModel) -> None:
    same, other = color_model(), color_model()
    with torch.no_grad():
        other.attention.key.weight[0, 0] += 1e-3
    same.name, same.calibration = "another name", Calibration(20.0, 1.0, 0.2, 0.3)
    assert same.fingerprint == model.fingerprint != other.fingerprint


@pytest.mark.parametrize("part", ["vision", "text", "attention"])
def test_fingerprints_follow_weights_changed_in_any_way(part: str) -> None:
    """That of the features changes with the vision tower alone."""
    model = color_model()
    model.text.register_buffer("weight", torch.ones(3))
    for change in ("in place", "as data", "as another tensor"):
        before, features = model.fingerprint, model.feature_fingerprint
        module = getattr(model, part)
        name, weight = next(iter(module.state_dict(keep_vars=True).items()))
        if change == "in place":
            with torch.no_grad():
                weight += 1
        elif change == "as data":
            weight.data.mul_(2)
        else:
            weight.data = weight.data - 5
        assert model.fingerprint != before, (name, change)
        assert (model.feature_fingerprint != features) == (part == "vision"), (name, change)


def test_widths_must_agree(model: XAttnModel) -> None:
    with pytest.raises(ValueError, match="one width"):
        XAttnModel(model.vision, model.text, CrossAttention(model.dim * 2, 2), model.calibration)


def test_region_grids_stack_and_split(images: RegionGrid) -> None:
    stacked = RegionGrid.stack([images[2], images[0]])
    assert stacked.sizes == (images.sizes[2], images.sizes[0])
    torch.testing.assert_close(stacked[1].regions, images[0].regions)
    assert stacked.mask.sum(1).tolist() == [h * w for h, w in stacked.sizes]
    with pytest.raises(ValueError, match="disagree"):
        RegionGrid(images.regions, images.pooled, images.sizes[:1])


def test_of_nothing_comes_nothing() -> None:
    model = color_model()
    assert len(model.encode_images([])) == 0
    assert model.ground(paint((5, 7), "red"), []) == []


def test_pictures_are_taken_in_the_order_given() -> None:
    model = color_model()
    grid = model.encode_images([paint((5, 7), "red"), paint((7, 5), "blue"), paint((6, 6), "green")])
    taken = grid.take([2, 0])
    assert taken.sizes == (grid.sizes[2], grid.sizes[0])
    torch.testing.assert_close(taken.regions, grid.regions[[2, 0]])
    assert len(grid.take([])) == 0
