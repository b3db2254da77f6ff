"""Records and COCO's files: boxes, phrases, hard negatives and where the pictures are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.painted import spot
from xattn.datasets import HardNegative, NamedBox, Statement, load_dataset, read_dataset
from xattn.errors import DataError


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
        ("{", r"records\.jsonl:1: it is not JSON"),
        ("7", r"records\.jsonl:1: expected an object, got int"),
        ("[]", "is empty"),
        ('{"id": 1, "split": "dev"}', r"records\.jsonl:1: the key 'image' is missing"),
        (
            '{"id": 1, "split": "dev", "image": "x", "boxes": {"name": "a"}}',
            r"records\.jsonl:1: expected 'boxes' to be a list of objects",
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
    with pytest.raises(DataError, match=r"b\.txt: "):
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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pos": None}, "'pos' to be a string"),
        ({"neg": ["a dog"]}, "'neg' to be a string"),
        ({"neg": "caf\udce9"}, "not UTF-8|surrogate"),
        ({"id": "elsewhere"}, "no record has the id elsewhere"),
        ({"votes": "many"}, "'>='"),
        ({"label": 1}, "the key 'caption' is missing"),
        ({"set": ...}, "the key 'set' is missing"),
        (None, "expected an object"),
    ],
)
def test_bad_hard_negatives_are_named(tmp_path: Path, change: dict[str, Any] | None, reason: str) -> None:
    write_lines(tmp_path / "records.jsonl", [record_line(tmp_path, "1")])
    good = {"id": 1, "set": "s", "kind": "k", "pos": "a cat", "neg": "a dog"}
    bad = None if change is None else {**good, **change}
    if bad is not None:
        bad = {key: value for key, value in bad.items() if value is not ...}
    lines = [json.dumps(line) for line in (good, bad, good)]
    (tmp_path / "hard_negatives.jsonl").write_text("\n".join(lines), encoding="utf-8")
    dataset = read_dataset(tmp_path)
    assert len(dataset.hard_negatives) == 2
    (entry,) = dataset.skipped
    assert "hard_negatives.jsonl:2" in entry.where
    assert re.search(reason, entry.reason)
    with pytest.raises(DataError, match=r"hard_negatives\.jsonl:2"):
        load_dataset(tmp_path)
