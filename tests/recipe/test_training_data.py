"""Training's data path by painted pictures: records, views, kept features, batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.tiny_training import (  # noqa: F401  fixtures
    COLORS,
    SMOKE,
    cache_fixture,
    data_fixture,
    dataset_fixture,
    features_fixture,
    model_fixture,
    record,
    tiny_nets_fixture,
    write_records,
)
from training.batches import Sampler
from training.loop import Objective
from training.run import split_off, untrained
from xattn.encoders.hybrid.vision import HybridEncoder
from xattn.errors import DataError
from xattn.model import XAttnModel
from xattn.training.default_towers import towers_of
from xattn.training.features import MAX_REGIONS, ViewFeatures, cached_features
from xattn.training.gather import gather, text_table
from xattn.training.pictures import Dataset, read_credited, read_dataset
from xattn.training.views import View, cell_cover, views_of

# Data and views


def test_dataset_leaves_out_samples_other_splits_and_wordless_pictures(tmp_path: Path) -> None:
    wordless = record(1, captions=[], boxes=[], phrases=[])
    write_records(tmp_path, [record(0), wordless, record(2, split="dev"), record(3), record(4)])
    dataset = read_dataset(tmp_path, "train", {100})
    assert [picture.id for picture in dataset.pictures] == [103, 104]
    # Rows count every record of the split: leaving more out must not move what is kept on disk.
    assert [picture.row for picture in dataset.pictures] == [2, 3]
    assert dataset.record_ids == (100, 101, 103, 104)
    assert dataset.categories == ["red", "yellow"]
    assert dataset.pictures[0].places["yellow thing"] == ((0.5, 0.25, 1.0, 0.75),)
    assert dataset.pictures[0].categories == {"yellow"}
    assert {"yellow", "yellow thing", "yellow on grey"} <= set(dataset.texts)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("{", "line 2"), ('{"split": "train"}', "captions|boxes"), ("[]", "line 2")],
)
def test_bad_records_are_named_by_line(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "records.jsonl").write_text(json.dumps(record(0)) + "\n" + line, encoding="utf-8")
    with pytest.raises(DataError, match=expected):
        read_dataset(tmp_path, "train")


def test_missing_files_say_which_option_names_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        read_dataset(tmp_path, "train")
    with pytest.raises(DataError, match="--leave-out"):
        read_credited(tmp_path / "credits.json")
    write_records(tmp_path, [record(0)])
    with pytest.raises(DataError, match="'validation'"):
        read_dataset(tmp_path, "validation")


def test_cell_cover_by_hand() -> None:
    cover = cell_cover([(0.25, 0.5, 0.625, 1.0)], (3, 4))
    assert cover.tolist() == [[0, 0, 0, 0], [0, 0.5, 0.25, 0], [0, 1, 0.5, 0]]
    # Two boxes: the larger share, not the sum; what lies outside the picture covers nothing.
    both = cell_cover(
        [(0.25, 0.5, 0.625, 1.0), (0.25, 0.0, 0.5, 0.5), (1.1, 0, 2, 1), (-1, 0, -0.5, 1)], (3, 4)
    )
    assert both.tolist() == [[0, 1, 0, 0], [0, 0.5, 0.25, 0], [0, 1, 0.5, 0]]


@pytest.mark.parametrize("view", [View(), View(mirrored=True), View(0.25, 0.2, 0.95, 0.9, mirrored=True)])
def test_a_box_lands_where_its_pixels_land(view: View) -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[30:60, 120:180] = 255
    seen = np.asarray(view.apply(Image.fromarray(pixels)))[..., 0] > 0
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    x1, y1, x2, y2 = view.place((0.6, 0.3, 0.9, 0.6))
    height, width = seen.shape
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert found == pytest.approx((x1 * width, y1 * height, x2 * width, y2 * height), abs=1e-6)


def test_views_are_the_same_each_time_and_stay_inside() -> None:
    assert views_of(0, 2) == [View(), View()]
    assert views_of(1, 1) == [View(mirrored=True)]
    crops = views_of(2, 300)
    assert crops == views_of(2, 300) != views_of(3, 300)
    assert all(0 <= v.x1 < v.x2 <= 1 and 0 <= v.y1 < v.y2 <= 1 for v in crops)
    # A crop so wide or tall that its long side would leave the picture is cut there.
    assert all(0.5 <= (v.x2 - v.x1) * (v.y2 - v.y1) <= 1 for v in crops)
    assert 100 < sum(v.mirrored for v in crops) < 200


# Features


def test_training_sees_what_the_model_sees(
    model: XAttnModel, dataset: Dataset, features: list[ViewFeatures]
) -> None:
    """Regions and pooled from kept features, padded and masked, equal those of the pictures themselves."""
    vision, _ = towers_of(model)
    pictures = dataset.pictures[:4]
    given = gather(features, [0, 1, 2, 0], [p.row for p in pictures], torch.device("cpu"))
    with torch.inference_mode():
        regions, pooled = given.fused(vision.fusion)
    seen = [
        features[view].views[picture.row].apply(Image.open(picture.path).convert("RGB"))
        for view, picture in zip([0, 1, 2, 0], pictures, strict=True)
    ]
    expected = model.encode_images(seen)
    assert given.sizes == expected.sizes
    assert len(set(given.sizes)) > 1
    torch.testing.assert_close(pooled, expected.pooled, atol=5e-3, rtol=0)
    for b, (height, width) in enumerate(given.sizes):
        found, wanted = regions[b, : height * width], expected.regions[b, : height * width]
        torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-2)
        assert given.mask[b].sum() == height * width


def test_features_go_on_where_they_stopped(
    model: XAttnModel,
    dataset: Dataset,
    features: list[ViewFeatures],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vision, _ = towers_of(model)
    encoded = []
    original = HybridEncoder.features

    def counted(self: HybridEncoder, vit: Tensor, conv: Tensor) -> tuple[Tensor, ...]:
        encoded.append(len(vit))
        return original(self, vit, conv)

    monkeypatch.setattr(HybridEncoder, "features", counted)
    seen: list[tuple[int, int]] = []
    more = replace(dataset, pictures=dataset.pictures[:7])
    again = cached_features(vision, more, 1, cache, progress=lambda p: seen.append((p.done, p.total)))
    assert sum(encoded) == 1
    assert seen == [(done, 7) for done in range(1, 8)]
    kept = [picture.row for picture in dataset.pictures[:6]]
    np.testing.assert_array_equal(again[0].arrays["cells"][kept], features[0].arrays["cells"][kept])
    assert not again[0].grid[0].any(), "the sample's row was computed"


@pytest.mark.parametrize("other", ["records", "vit"])
def test_features_of_something_else_are_refused(
    model: XAttnModel, dataset: Dataset, features: list[ViewFeatures], cache: Path, other: str
) -> None:
    vision, _ = towers_of(model)
    if other == "records":
        dataset = replace(dataset, record_ids=dataset.record_ids[::-1])
    else:
        torch.manual_seed(8)
        vision, _ = towers_of(untrained(SMOKE, dataset))
    with pytest.raises(DataError, match=rf"other .*{other}.*--cache"):
        cached_features(vision, dataset, 1, cache)


def test_text_table_keeps_the_order(model: XAttnModel, dataset: Dataset) -> None:
    _, text = towers_of(model)
    texts = ["red", "a red square number 4", "blue on grey"]
    table = text_table(text, texts, batch_size=2)
    for row, name in enumerate(texts):
        with torch.inference_mode():
            torch.testing.assert_close(
                table[row], text.features(*text.tokenize([name]))[0], atol=1e-5, rtol=0
            )


# Batches and the objective


@pytest.fixture
def sampler(dataset: Dataset, features: list[ViewFeatures]) -> Callable[[], Sampler]:
    rows = {text: row for row, text in enumerate(dataset.texts)}

    def make() -> Sampler:
        return Sampler(dataset, dataset.pictures[:6], features, rows, SMOKE, torch.device("cpu"))

    return make


def test_batches_hold_own_captions_present_and_absent_texts(
    dataset: Dataset, sampler: Callable[[], Sampler]
) -> None:
    texts = dataset.texts
    drawn = sampler()
    batches = list(drawn.epoch())
    assert len(batches) == drawn.steps_per_epoch == 1
    batch = batches[0]
    order = drawn.pictures[:4]
    for b, picture in enumerate(order):
        own = [texts[row] for row in batch.captions[batch.owners == b]]
        assert set(own) == set(picture.captions), "both of its captions, none twice"
        assert len(own) == 2
        present = {texts[row] for row in batch.texts[b][batch.present[b]]}
        absent = {texts[row] for row in batch.texts[b][batch.absent[b]]}
        assert present == set(picture.places)
        assert absent == set(COLORS) & set(dataset.categories) - set(picture.places), "all that it lacks"
        # The box is half the width and half the height: in the whole or mirrored view a quarter of all.
        cover = batch.cover[b][batch.present[b]]
        assert (cover.sum(1) > 0.2 * batch.pictures.mask[b].sum()).all()
        assert not cover[:, ~batch.pictures.mask[b]].any()
    assert not (batch.present & batch.absent).any()


def test_the_same_seed_draws_the_same_batches(sampler: Callable[[], Sampler]) -> None:
    one, two = sampler(), sampler()
    for _ in range(2):
        for a, b in zip(one.epoch(), two.epoch(), strict=True):
            assert torch.equal(a.captions, b.captions)
            assert torch.equal(a.cover, b.cover)
            assert torch.equal(a.pictures.features.cells, b.pictures.features.cells)


def test_own_weights_are_those_of_the_attention(
    model: XAttnModel, dataset: Dataset, sampler: Callable[[], Sampler]
) -> None:
    """Each text over its own picture only, against every text over every picture."""
    vision, text = towers_of(model)
    table = text_table(text, dataset.texts)
    objective = Objective(vision.fusion, text.head, model.attention, table, SMOKE).eval()
    batch = next(sampler().epoch())
    regions = torch.randn(4, MAX_REGIONS, SMOKE.dim)
    used = batch.present | batch.absent
    with torch.inference_mode():
        torch.nn.init.normal_(model.attention.null_key)
        held = text.head(table[batch.texts[used]])
        weights, null = objective._own_weights(regions, batch.pictures.mask, batch, held)
        every = model.attention(regions, held, batch.pictures.mask)
        torch.nn.init.zeros_(model.attention.null_key)
    owners = used.nonzero()[:, 0]
    torch.testing.assert_close(weights[used], every.weights[owners, torch.arange(len(held))])
    torch.testing.assert_close(null[used], every.null_weight[owners, torch.arange(len(held))])


def test_held_out_pictures_are_not_trained_on(dataset: Dataset) -> None:
    kept, rest = split_off(dataset, SMOKE)
    assert len(kept) == SMOKE.held_out
    assert not {p.id for p in kept} & {p.id for p in rest}
    assert len(kept) + len(rest) == len(dataset.pictures)
    with pytest.raises(DataError, match=r"12 pictures with captions.*--set"):
        split_off(dataset, replace(SMOKE, batch_size=10))
