"""Evaluation end to end on painted pictures whose every figure can be counted by hand."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from color_model import color_model, paint
from PIL import Image
from rich.console import Console

from xattn.errors import DataError
from xattn.evaluation import (
    Dataset,
    HardNegative,
    NamedBox,
    Record,
    Report,
    Settings,
    Statement,
    encoding,
    evaluate,
    load_dataset,
    scoring,
)
from xattn.evaluation.encoding import EncodedPictures
from xattn.metrics import retrieval_ranks
from xattn.model import XAttnModel

FAST = Settings(num_resamples=50)


def save(picture: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def spot(folder: Path, name: str, color: str, cell: tuple[int, int] = (1, 5)) -> Path:
    """A picture of 5 x 7 cells, gray but for one cell, as PNG."""
    return save(paint((5, 7), "gray", {cell: color}), folder / f"{name}.png")


def box_of(row: int, column: int) -> tuple[float, float, float, float]:
    return column / 7, row / 5, (column + 1) / 7, (row + 1) / 5


@pytest.fixture
def model() -> XAttnModel:
    return color_model()


@pytest.fixture
def painted(tmp_path: Path) -> Dataset:
    """Three pictures of one spot each, on gray; the third has two captions, of which one is no help."""
    cells = {"red": (1, 5), "green": (2, 3), "blue": (4, 0)}
    captions = {
        "red": ("a red square",),
        "green": ("a green square",),
        "blue": ("a blue square", "something gray"),
    }
    return Dataset(
        name="painted",
        split=None,
        records=tuple(
            Record(
                id=color,
                image=spot(tmp_path, color, color, cell),
                captions=captions[color],
                boxes=(NamedBox(color, box_of(*cell)), NamedBox("gray", (0.0, 0.0, 1.0, 1.0))),
                phrases=(NamedBox(f"the {color} cell", box_of(*cell)),),
            )
            for color, cell in cells.items()
        ),
        hard_negatives=(
            HardNegative("red", "swap", "color", "a red square", "a blue square"),
            HardNegative("green", "swap", "color", "a purple square", "a green square"),
            HardNegative("blue", "swap", "nothing", "a square", "a thing"),  # equal scores
            HardNegative("blue", "other", "color", "a blue square", "a pink square"),
        ),
    )


def value(report: Report, group: str, measure: str, subject: str) -> float:
    return report.figure(group, measure, subject).value.value


# --- figures ----------------------------------------------------------------------------------------


def test_retrieval(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, painted, settings=FAST)
    assert (report.num_pictures, report.num_captions) == (3, 4)
    for subject in ("pooled alone", "attention alone", "two-stage"):
        # "something gray" fits all three equally well: a tie of three, rank 3.
        assert value(report, "text → image", "recall@1", subject) == 3 / 4
        assert value(report, "text → image", "recall@5", subject) == 1
        assert value(report, "text → image", "median rank", subject) == 1
        assert report.figure("text → image", "recall@1", subject).num_cases == 4
        assert report.figure("image → text", "recall@1", subject).num_cases == 3
    # By pooled embedding each picture is mostly gray: red and green find "something gray" first.
    assert value(report, "image → text", "recall@1", "pooled alone") == 1 / 3
    gain = report.figure("image → text", "recall@1", "attention alone").gain
    assert gain is not None
    assert gain.value == pytest.approx(
        value(report, "image → text", "recall@1", "attention alone") - 1 / 3, abs=1e-9
    )
    assert report.figure("image → text", "recall@1", "pooled alone").gain is None


def test_grounding_and_its_baselines(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, painted, settings=FAST)
    group = "grounding: phrases"
    assert report.figure(group, "pointing game", "model").num_cases == 3
    assert value(report, group, "pointing game", "model") == 1
    assert value(report, group, "pointing game", "picture centre") == pytest.approx(1 / 3)  # the green cell
    assert value(report, group, "pointing game", "random place") == pytest.approx(1 / 35)
    # The largest box is the whole picture, whose centre is in the green cell.
    assert value(report, group, "pointing game", "largest region") == pytest.approx(1 / 3)
    assert value(report, group, "energy in box", "model") > 0.9
    assert value(report, group, "energy in box", "random place") == pytest.approx(1 / 35)
    assert value(report, group, "energy in box", "largest region") == pytest.approx(1 / 35)
    # The green cell lies in the central quarter of the picture, the red one's corner too, the blue one not.
    red_corner = (3 / 4 - 5 / 7) * (2 / 5 - 1 / 4)
    expected = (1 / 35 + red_corner) / (1 / 4) / 3
    assert value(report, group, "energy in box", "picture centre") == pytest.approx(expected)
    assert value(report, group, "box accuracy at IoU 0.5", "model") == 1
    assert value(report, group, "box accuracy at IoU 0.5", "random place") == 0
    gain = report.figure(group, "pointing game", "model").gain
    assert gain is not None
    assert gain.value == pytest.approx(2 / 3)

    group = "grounding: categories"  # two names a picture, of which "gray" is everywhere
    assert report.figure(group, "pointing game", "model").num_cases == 6
    assert value(report, group, "pointing game", "random place") == pytest.approx((1 + 1 / 35) / 2)
    assert value(report, group, "box accuracy at IoU 0.5", "largest region") == pytest.approx(1 / 2)


def test_any_box_of_a_name_is_right(model: XAttnModel, tmp_path: Path) -> None:
    picture = spot(tmp_path, "a", "red", (1, 5))
    far = NamedBox("red", (0.0, 0.5, 0.2, 1.0))
    near = NamedBox("red", box_of(1, 5))
    for boxes, expected in (((far,), 0), ((far, near), 1)):
        report = evaluate(model, Dataset("d", None, (Record("a", picture, boxes=boxes),)), settings=FAST)
        figure = report.figure("grounding: categories", "pointing game", "model")
        assert (figure.value.value, figure.num_cases) == (expected, 1)
        assert value(report, "grounding: categories", "box accuracy at IoU 0.5", "model") == expected


def test_hard_negatives_by_set_and_kind(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, painted, settings=FAST)
    found = {
        (figure.measure, figure.subject): (figure.value.value, figure.num_cases)
        for figure in report.figures
        if figure.group == "hard negatives"
    }
    assert found == {
        ("other, right of two", "all kinds"): (1, 1),
        ("other, right of two", "color"): (1, 1),
        ("swap, right of two", "all kinds"): (pytest.approx(1 / 3), 3),
        ("swap, right of two", "color"): (1 / 2, 2),
        ("swap, right of two", "nothing"): (0, 1),
    }


def test_statements(model: XAttnModel, painted: Dataset) -> None:
    statements = (
        Statement("blue", "vsr", "is", "a blue square", True),
        Statement("red", "vsr", "is", "a red square", True),
        Statement("red", "vsr", "is", "a blue square", False),
        Statement("red", "vsr", "near", "a red square", False),
    )
    grids = model.encode_images([Image.open(record.image).convert("RGB") for record in painted.records])
    score = model.score(grids, ["a blue square", "a red square"])
    threshold = float(score[0].mean().sigmoid())  # between the two, for the red picture
    assert score[2, 0].sigmoid() > threshold
    settings = Settings(threshold=threshold, num_resamples=50)
    report = evaluate(model, Dataset("d", None, painted.records, (), statements), settings=settings)
    assert value(report, "hard negatives", "vsr, true or false", "all kinds") == 3 / 4
    assert value(report, "hard negatives", "vsr, true or false", "is") == 1
    assert value(report, "hard negatives", "vsr, true or false", "near") == 0


def test_match_probability(model: XAttnModel, painted: Dataset) -> None:
    texts = [caption for record in painted.records for caption in record.captions]
    owners = [0, 1, 2, 2]
    grids = model.encode_images([Image.open(record.image).convert("RGB") for record in painted.records])
    probabilities = model.score(grids, texts).sigmoid().numpy()
    present = probabilities.max(0)
    absent = np.array([np.delete(probabilities[:, n], owner).max() for n, owner in enumerate(owners)])
    threshold = float((present[0] + absent[0]) / 2)
    assert absent[0] < threshold < present[0]

    model.calibration = replace(model.calibration, nothing_below=threshold)
    report = evaluate(model, painted, settings=FAST)
    said = np.concatenate([present, absent]) < threshold
    subject = "best match below the model's threshold"
    assert value(report, "nothing matched", "precision", subject) == said[4:].sum() / said.sum()
    assert value(report, "nothing matched", "recall", subject) == said[4:].mean()
    assert 0 < said[4:].mean() < 1

    right = np.concatenate([probabilities.argmax(0) == owners, np.zeros(4)])
    best = np.concatenate([present, absent])
    bins = np.minimum((best * 15).astype(int), 14)
    error = sum(abs((best - right)[bins == b].sum()) for b in range(15)) / 8
    found = value(report, "match probability", "calibration error", "best match of a search")
    assert found == pytest.approx(error, abs=1e-3)


def test_the_first_stage_can_lose_a_picture(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, painted, settings=Settings(candidates=1, num_resamples=50))
    for k in (1, 5, 10):
        first = value(report, "text → image", f"recall@{k}", "pooled alone")
        assert value(report, "text → image", f"recall@{k}", "two-stage") == first


def test_the_next_candidate_takes_the_place_of_a_picture_taken_out(
    model: XAttnModel, painted: Dataset
) -> None:
    model.calibration = replace(model.calibration, nothing_below=1e-9)  # which any picture passes
    report = evaluate(model, painted, settings=Settings(candidates=1, num_resamples=50))
    assert value(report, "nothing matched", "recall", "best match below the model's threshold") == 0


def test_calibration_on_own_and_random_pictures(model: XAttnModel, painted: Dataset) -> None:
    two = Dataset("two", None, painted.records[:2])  # where the random other picture is the other one
    grids = model.encode_images([Image.open(record.image).convert("RGB") for record in two.records])
    probabilities = model.score(grids, ["a red square", "a green square"]).sigmoid().numpy().round(3)
    assert probabilities[0, 0] == probabilities[1, 1] != probabilities[0, 1] == probabilities[1, 0]
    report = evaluate(model, two, settings=FAST)
    found = value(report, "match probability", "calibration error", "own and random pictures")
    expected = (abs(1 - probabilities[0, 0]) + probabilities[0, 1]) / 2
    assert found == pytest.approx(expected, abs=2e-3)


def test_two_models(model: XAttnModel, painted: Dataset) -> None:
    blind = color_model("blind")
    with torch.no_grad():
        blind.attention.key.weight.zero_()  # attends to everything alike
    report = evaluate(model, painted, other=blind, settings=FAST)
    figure = report.figure("grounding: phrases", "pointing game", "model")
    assert figure.other is not None
    assert figure.difference is not None
    assert figure.other.value == pytest.approx(1 / 35)
    assert figure.difference.value == pytest.approx(1 - 1 / 35)
    assert figure.difference.low > 0
    baseline = report.figure("grounding: phrases", "pointing game", "picture centre")
    assert baseline.other is None
    assert baseline.difference is None
    same = evaluate(model, painted, other=model, settings=FAST)
    assert {f.difference.value for f in same.figures if f.difference is not None} == {0.0}
    assert {f.difference.p_value for f in same.figures if f.difference is not None} == {1.0}


@pytest.mark.parametrize(
    "keep", [{"captions"}, {"boxes"}, {"phrases"}, {"hard_negatives"}], ids=lambda keep: min(keep)
)
def test_measures_what_there_is(model: XAttnModel, painted: Dataset, keep: set[str]) -> None:
    def only(record: Record) -> Record:
        return Record(record.id, record.image, **{k: getattr(record, k) for k in keep - {"hard_negatives"}})

    negatives = painted.hard_negatives if "hard_negatives" in keep else ()
    report = evaluate(
        model, Dataset("d", None, tuple(map(only, painted.records)), negatives), settings=FAST
    )
    groups = {figure.group for figure in report.figures}
    assert (
        groups
        == {
            "captions": {"text → image", "image → text", "match probability", "nothing matched"},
            "boxes": {"grounding: categories"},
            "phrases": {"grounding: phrases"},
            "hard_negatives": {"hard negatives"},
        }[min(keep)]
    )


def test_one_picture_alone(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, Dataset("d", None, painted.records[:1]), settings=FAST)
    assert value(report, "text → image", "recall@1", "two-stage") == 1
    assert "nothing matched" not in {figure.group for figure in report.figures}


def test_nothing_to_measure(model: XAttnModel, tmp_path: Path) -> None:
    record = Record("a", spot(tmp_path, "a", "red"))
    with pytest.raises(DataError, match="nothing to measure"):
        evaluate(model, Dataset("bare", None, (record,)), settings=FAST)
    with pytest.raises(DataError, match="can be read"):
        evaluate(model, Dataset("empty", None, ()), settings=FAST)


def test_pictures_that_cannot_be_read_are_left_out(model: XAttnModel, painted: Dataset) -> None:
    expected = evaluate(model, painted, settings=FAST)
    damaged = painted.records[0].image.with_name("damaged.png")
    damaged.write_bytes(painted.records[0].image.read_bytes()[:60])
    bad = Record("bad", damaged, ("a red square",), (NamedBox("red", (0, 0, 1, 1)),))
    records = (*painted.records[:1], bad, *painted.records[1:])
    negatives = (*painted.hard_negatives, HardNegative("bad", "swap", "color", "red", "blue"))
    report = evaluate(model, Dataset("painted", None, records, negatives), settings=FAST)
    assert [skipped.path for skipped in report.skipped] == [damaged]
    assert report.figures == expected.figures
    assert "Left out: 1 " in report.markdown()
    with pytest.raises(DataError, match="None of the 1 pictures"):
        evaluate(model, Dataset("bad", None, (bad,)), settings=FAST)


# --- how it is computed -----------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> Dataset:
    """Twenty pictures of different shapes, three captions each on average, some without."""
    rng = np.random.default_rng(0)
    colors = ["red", "green", "blue", "yellow", "pink", "brown"]
    records = []
    for i in range(20):
        grid = ((5, 7), (7, 5), (3, 9))[i % 3]
        shown = rng.choice(colors, 2, replace=False)
        picture = paint(grid, str(shown[0]), {(0, int(rng.integers(5))): str(shown[1])})
        captions = tuple(f"{j} {rng.choice(colors)} {rng.choice(shown)}" for j in range(i % 7))
        records.append(Record(str(i), save(picture, tmp_path / f"{i}.png"), captions))
    return Dataset("many", None, tuple(records))


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


# --- the report -------------------------------------------------------------------------------------


def test_report_as_json_and_tables(model: XAttnModel, many: Dataset) -> None:
    report = evaluate(
        model, many, other=color_model("twin"), settings=Settings(threshold=0.0, num_resamples=50)
    )
    content = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert content["model"] == {"name": "colors", "fingerprint": model.fingerprint}
    assert content["other"]["name"] == "twin"
    assert content["settings"]["threshold"] == 0
    assert len(content["figures"]) == len(report.figures)
    # No search has a best match below 0: a precision of nothing.
    undefined = next(figure for figure in content["figures"] if figure["measure"] == "precision")
    assert undefined["value"] == {"value": None, "low": None, "high": None}

    recall = report.figure("text → image", "recall@5", "two-stage").value
    cell = f"{100 * recall.value:.1f} [{100 * recall.low:.1f}, {100 * recall.high:.1f}]"
    markdown = report.markdown()
    (row,) = [line for line in markdown.splitlines() if "text → image, recall@5 | two-stage" in line]
    assert cell in row
    assert "undefined" in markdown
    assert len({line.count("|") for line in markdown.splitlines() if "|" in line}) == 1
    output = io.StringIO()
    Console(file=output, width=250).print(report.table())
    assert cell in output.getvalue()
    assert "twin" in output.getvalue()


def test_figures_of_few_cases_are_in_the_json_only(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, painted, settings=FAST)
    assert "Not shown:" in report.markdown()
    assert "swap" not in report.markdown()
    assert "swap, right of two" in report.to_json()
    with pytest.raises(KeyError, match="recall@1"):
        report.figure("text → image", "recall@3", "two-stage")


# --- datasets ---------------------------------------------------------------------------------------


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")


def record_line(folder: Path, name: str, **fields: Any) -> dict[str, Any]:
    path = spot(folder / "images", name, "red")
    return {"id": name, "image": f"images/{path.name}", "split": "dev", **fields}


def test_records(tmp_path: Path) -> None:
    boxes = [
        {"name": "cat", "box": [-0.1, 0.2, 0.5, 1.2]},
        {"name": "cat", "box": [0.5, 0, 0.5, 1]},  # no area
    ]
    captions = ["a cat ", "a cat", "", "two"]
    phrase = {"phrase": "the left cat", "box": [0, 0, 0.5, 1], "source": "x", "negatives": []}
    write_lines(
        tmp_path / "records.jsonl",
        [
            record_line(tmp_path, "1", captions=captions, boxes=boxes, phrases=[phrase]),
            record_line(tmp_path, "2", split="train"),
        ],
    )
    negative = {"id": 1, "set": "s", "kind": "k", "pos": "a cat ", "neg": "a dog"}
    statement = {"id": 1, "set": "vsr", "kind": "on", "caption": "A cat is on it.", "label": 0}
    doubted = {**negative, "votes": 1}
    write_lines(tmp_path / "hard_negatives.jsonl", [negative, statement, {**negative, "id": "2"}, doubted])
    dataset = load_dataset(tmp_path, "dev")
    (record,) = dataset.records
    assert (record.id, record.image) == ("1", tmp_path / "images" / "1.png")
    assert record.captions == ("a cat", "two")
    assert record.boxes == (NamedBox("cat", (0, 0.2, 0.5, 1)),)
    assert record.phrases == (NamedBox("the left cat", (0, 0, 0.5, 1)),)
    assert dataset.hard_negatives == (HardNegative("1", "s", "k", "a cat", "a dog"),)
    assert dataset.statements == (Statement("1", "vsr", "on", "A cat is on it.", False),)
    assert len(load_dataset(tmp_path).records) == 2
    assert len(load_dataset(tmp_path).hard_negatives) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"records\.jsonl:1 cannot be read"),
        ("[]", r"records\.jsonl:1 cannot be read: expected an object, got list"),
        ('{"id": 1, "split": "dev"}', r"records\.jsonl:1: the key 'image' is missing"),
        (
            '{"id": 1, "split": "dev", "image": "x", "boxes": [{"name": "a", "box": [1]}]}',
            r"records\.jsonl:1",
        ),
        ('{"id": 1, "split": "dev", "image": "x.png"}', r"1 of 1 pictures .* missing.* x\.png"),
        (
            '{"id": 1, "split": "train", "image": "x.png"}',
            r"no record of .* 'dev'; it has \['train'\]",
        ),
        ("", "is empty"),
        ('{"id": 1, "split": "dev", "image": "x"}\n{"id": 1, "split": "dev", "image": "y"}', "the same id"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "records.jsonl").write_text(content)
    with pytest.raises(DataError, match=message.replace(" x", ".*x")):
        load_dataset(tmp_path, "dev")


def coco(folder: Path, pictures: str) -> None:
    """Two splits; the pictures of "val" in a folder of the given name."""
    images = [
        {"id": 7, "file_name": "a.png", "width": 140, "height": 100},
        {"id": 8, "file_name": "b.png", "width": 140, "height": 100},
    ]
    for name in ("a", "b"):
        spot(folder / pictures, name, "red")
    annotations = folder / "annotations"
    annotations.mkdir(exist_ok=True)
    captions = [{"image_id": 8, "caption": "one\n"}, {"image_id": 8, "caption": "two"}]
    (annotations / "captions_val.json").write_text(json.dumps({"images": images, "annotations": captions}))
    boxes = [
        {"image_id": 7, "category_id": 3, "bbox": [14, 50, 70, 25], "iscrowd": 0},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 140, 100], "iscrowd": 1},
    ]
    instances = {"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "cat"}]}
    (annotations / "instances_val.json").write_text(json.dumps(instances))
    (annotations / "captions_train.json").write_text(json.dumps({"images": [], "annotations": []}))


@pytest.mark.parametrize("pictures", ["val", "images", "images/val", "annotations", "annotations/images"])
@pytest.mark.parametrize(
    "given", ["", "annotations", *(f"annotations/{k}_val.json" for k in ("captions", "instances"))]
)
def test_coco(tmp_path: Path, pictures: str, given: str) -> None:
    coco(tmp_path, pictures)
    path = tmp_path / given
    dataset = load_dataset(path, None if path.is_file() else "val")
    a, b = dataset.records
    assert (a.id, a.image, a.captions) == ("7", tmp_path / pictures / "a.png", ())
    assert [named.name for named in a.boxes] == ["cat"]
    assert a.boxes[0].box == pytest.approx((0.1, 0.5, 0.6, 0.75))
    assert (b.id, b.captions, b.boxes) == ("8", ("one", "two"), ())


def test_coco_pictures_elsewhere_and_splits(tmp_path: Path) -> None:
    coco(tmp_path, "far/away")
    with pytest.raises(DataError, match="Say where they are"):
        load_dataset(tmp_path, "val")
    assert len(load_dataset(tmp_path, "val", pictures=tmp_path / "far" / "away").records) == 2
    with pytest.raises(DataError, match=r"\['train', 'val'\]"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="lists no pictures"):
        load_dataset(tmp_path, "train")


def test_folder_with_captions(tmp_path: Path) -> None:
    spot(tmp_path, "b", "red")
    spot(tmp_path / "deeper", "a", "blue")
    (tmp_path / "b.txt").write_text("ein rotes Kästchen\n\n  zwei \n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("of no picture")
    dataset = load_dataset(tmp_path)
    captions = {record.image.name: record.captions for record in dataset.records}
    assert captions == {"b.png": ("ein rotes Kästchen", "zwei"), "a.png": ()}
    with pytest.raises(DataError, match="no captions"):
        load_dataset(tmp_path, "deeper")
    with pytest.raises(DataError, match="no split 'dev'"):
        load_dataset(tmp_path, "dev")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"b\.txt cannot be read"):
        load_dataset(tmp_path)


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing there"):
        load_dataset(tmp_path / "absent")
    other = tmp_path / "x.pdf"
    other.write_text("")
    with pytest.raises(DataError, match="another kind of file"):
        load_dataset(other)
    with pytest.raises(DataError, match="no captions"):
        load_dataset(tmp_path)
