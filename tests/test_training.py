"""Losses by hand, the data path by painted pictures, and the whole path by a smoke run."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn import functional as F

from tests.tiny_default import tiny_nets
from training import towers
from training.__main__ import main
from training.batches import Sampler, gather, text_table
from training.calibrate import fit_platt, nothing_below
from training.data import Dataset, read_credited, read_dataset
from training.features import MAX_REGIONS, ViewFeatures, cached_features
from training.loop import Objective
from training.recipes import changed, default
from training.run import split_off, untrained
from training.towers import towers_of
from training.views import View, cell_cover, views_of
from xattn.attention import attention_weights
from xattn.checkpoint import load_model
from xattn.encoders.text import SentenceConfig, SentenceEncoder
from xattn.encoders.vision import HybridEncoder
from xattn.errors import CheckpointError, DataError, MissingExtra
from xattn.losses import absent_attention, box_attention, info_nce, presence_logits
from xattn.model import XAttnModel

SMOKE = default(smoke=True)
SIZES = [(60, 90), (90, 60), (70, 72)]
"""(height, width): one for each shape that the towers see."""
COLORS = {"red": (220, 20, 20), "green": (20, 160, 20), "blue": (20, 40, 220), "yellow": (240, 230, 20)}


def record(number: int, **changes: Any) -> dict[str, Any]:
    color = list(COLORS)[number % len(COLORS)]
    return {
        "id": 100 + number,
        "image": f"{number}.png",
        "split": "train",
        "captions": [f"a {color} square number {number}", f"{color} on grey"],
        "boxes": [{"name": color, "box": [0.5, 0.25, 1.0, 0.75]}],
        "phrases": [{"phrase": f"{color} thing", "box": [0.5, 0.25, 1.0, 0.75]}],
    } | changes


def write_records(directory: Path, records: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(entry) + "\n" for entry in records)
    (directory / "records.jsonl").write_text(lines, encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def _tiny_nets() -> Iterator[None]:
    with tiny_nets():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen pictures of three shapes, a coloured square right of the middle; number 0 is a sample."""
    directory = tmp_path_factory.mktemp("data")
    records = [record(number) for number in range(14)]
    records.insert(3, record(50, split="dev"))
    write_records(directory, records)
    for number in range(14):
        height, width = SIZES[number % 3]
        noise = np.random.default_rng(number).integers(90, 160, (height, width, 3), dtype=np.uint8)
        noise[height // 4 : 3 * height // 4, width // 2 :] = list(COLORS.values())[number % 4]
        Image.fromarray(noise).save(directory / f"{number}.png")
    (directory / "credits.json").write_text(json.dumps([{"coco_id": 100}]), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def dataset(data: Path) -> Dataset:
    whole = read_dataset(data, "train", {100})
    return replace(whole, pictures=whole.pictures[:12])


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> XAttnModel:
    torch.manual_seed(SMOKE.seed)  # the towers of the smoke run, so that it can use the same cache
    return untrained(SMOKE, dataset)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def features(model: XAttnModel, dataset: Dataset, cache: Path) -> list[ViewFeatures]:
    few = replace(dataset, pictures=dataset.pictures[:6])
    return cached_features(towers_of(model)[0], few, 3, cache)


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


# Towers


def test_bert_weights_in_torch_modules() -> None:
    """Against BERT written out (Devlin et al. 2018), random weights, three texts of other lengths."""
    torch.manual_seed(3)
    width, heads, config = (
        12,
        3,
        SentenceConfig(4, 9, width=12, num_layers=2, num_heads=3, feedforward=20, max_tokens=6),
    )
    shapes = {
        "embeddings.word_embeddings.weight": (9, width),
        "embeddings.position_embeddings.weight": (11, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    linear = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
    linear |= {"attention.output.dense": (width, width), "intermediate.dense": (20, width)}
    linear |= {"output.dense": (width, 20)}
    for layer in range(2):
        prefix = f"encoder.layer.{layer}."
        for name, shape in linear.items():
            shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{prefix}{name}.weight": (width,), f"{prefix}{name}.bias": (width,)}
    bert = {name: torch.randn(shape) * 0.5 for name, shape in shapes.items()}

    words = {word: index for index, word in enumerate("abcdefghi")}
    encoder = SentenceEncoder(config, Tokenizer(WordLevel(words, unk_token="a"))).eval()
    encoder.load_state_dict(towers.text_state(bert, config), strict=False)
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]])
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    with torch.inference_mode():
        found = encoder.features(ids, valid)
    for row, length in enumerate((4, 2, 1)):
        torch.testing.assert_close(
            found[row], reference_bert(bert, ids[row, :length], heads), atol=1e-5, rtol=0
        )


def reference_bert(bert: dict[str, Tensor], ids: Tensor, heads: int) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], bert[f"{name}.weight"], bert[f"{name}.bias"], 1e-12)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, bert[f"{name}.weight"], bert[f"{name}.bias"])

    x = bert["embeddings.word_embeddings.weight"][ids]
    x = x + bert["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + bert["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(2):
        own = f"encoder.layer.{layer}"
        q, k, v = (
            linear(x, f"{own}.attention.self.{part}").view(len(ids), heads, -1).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        read = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        read = linear(read.transpose(0, 1).flatten(1), f"{own}.attention.output.dense")
        x = norm(x + read, f"{own}.attention.output.LayerNorm")
        wide = F.gelu(linear(x, f"{own}.intermediate.dense"))
        x = norm(x + linear(wide, f"{own}.output.dense"), f"{own}.output.LayerNorm")
    return F.normalize(x.mean(0), dim=-1)


@pytest.mark.parametrize("package", [towers.CONV_PACKAGE, towers.VIT_PACKAGE, towers.TEXT_PACKAGE, "onnx"])
def test_absent_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = package.replace("-", "_")
    found = importlib.util.find_spec("json")
    monkeypatch.setattr(towers, "find_spec", lambda name: None if name == missing else found)
    load: Callable[[], object] = {
        towers.CONV_PACKAGE: lambda: towers.conv_state({}),
        towers.TEXT_PACKAGE: lambda: towers.load_text(SentenceConfig()),
    }.get(package, lambda: towers.vit_state({}))
    with pytest.raises(MissingExtra, match=rf"'{package}'.*xattn\[train\]"):
        load()


def test_weights_that_do_not_fit_are_named() -> None:
    own = {"a.weight": torch.zeros(2, 3), "b": torch.zeros(1)}
    with pytest.raises(
        CheckpointError, match=r"a\.weight \(expected \(2, 3\), found \(3, 2\)\).*b \(expected"
    ):
        towers._fitted(own, {"a.weight": torch.zeros(3, 2)}, "some-package")


# Recipes and the whole path


def test_settings_are_changed_by_name() -> None:
    recipe = changed(default(), {"epochs": "3", "dropout": "0.5"})
    assert (recipe.epochs, recipe.dropout, recipe.views) == (3, 0.5, default().views)
    with pytest.raises(DataError, match=r"'epoch'.*valid are.*epochs"):
        changed(default(), {"epoch": "3"})
    with pytest.raises(DataError, match="epochs: expected int, got 'many'"):
        changed(default(), {"epochs": "many"})


def smoke_run(data: Path, out: Path, cache: Path, *more: str) -> list[dict[str, float]]:
    places = ["--data", str(data), "--out", str(out), "--cache", str(cache)]
    credits = ["--leave-out", str(data / "credits.json")]
    assert main(["default", "--smoke", *places, *credits, *more]) == 0
    log = out.with_name(f"{out.name}-log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in log.splitlines()]


def test_smoke_run(
    data: Path,
    features: list[ViewFeatures],
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = shutil.copytree(cache, tmp_path / "cache")  # half of it is there: as after a run broken off
    log = smoke_run(data, tmp_path / "one", cache)
    steps = [entry for entry in log[1:-1] if not entry.keys() & {"teacher", "copy"}]
    assert [entry["teacher"] for entry in log if "teacher" in entry] == [1.0] * 4 + [2.0] * 4, (
        "half of eight pictures each"
    )
    copying = [entry["loss"] for entry in log if "copy" in entry]
    assert copying[-1] < 0.5 * copying[0]
    assert [entry["step"] for entry in steps] == list(range(1, len(steps) + 1))
    assert len(steps) == SMOKE.epochs * 2
    losses = [entry["loss"] for entry in steps]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), "nothing was learned"
    assert all(math.isfinite(loss) for loss in losses)
    assert "features 36/36" in capsys.readouterr().out

    model = load_model(tmp_path / "one", device="cpu")
    assert model.calibration.logit_scale == pytest.approx(log[-1]["calibration"]["logit_scale"])  # type: ignore[index]
    picture = Image.open(data / "1.png").convert("RGB")
    grounding = model.ground(picture, ["green"])[0]
    assert grounding.weights.sum() + grounding.null_weight == pytest.approx(1, abs=1e-5)

    random.seed(99)
    torch.manual_seed(99)
    again = smoke_run(data, tmp_path / "two", cache)
    timeless = [{k: v for k, v in entry.items() if k != "seconds"} for entry in log]
    assert timeless == [{k: v for k, v in entry.items() if k != "seconds"} for entry in again]


def test_errors_are_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["default", "--smoke", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--leave-out", str(data / "credits.json")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
