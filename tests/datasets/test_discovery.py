"""Which files of a folder are read, and that no file that may hold captions is passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.datasets.photos import photo
from xattn.cli import app
from xattn.datasets import load_dataset, read_dataset, read_parts, splits_of
from xattn.datasets.check import check_dataset
from xattn.errors import DataError

ROWS = "image,caption\n0.png,a dog\n1.png,a cat\n"
LIST = json.dumps([{"image": "0.png", "caption": "a dog"}, {"image": "1.png", "caption": "a cat"}])
COCO = json.dumps(
    {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(2)],
        "annotations": [{"image_id": n, "caption": text} for n, text in enumerate(("a dog", "a cat"))],
    }
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures."""
    for number in range(2):
        photo(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("my photos.csv", ROWS),
        ("Captions.CSV", ROWS),
        ("metadata.json", LIST),
        ("labels.tsv", ROWS.replace(",", "\t")),
        ("annotations.json", COCO),
        ("_annotations.coco.json", COCO),
        ("captions_train.json", COCO),
        ("captions.txt", ROWS),
        ("0.txt.csv", ROWS),
    ],
)
def test_the_only_table_of_a_folder(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    (folder / "README.txt").write_text("About these photos.")
    dataset = read_dataset(folder)
    assert [record.captions for record in dataset.records] == [("a dog",), ("a cat",)]
    assert name in dataset.source
    assert name in CliRunner().invoke(app, ["data", "check", str(folder)]).output.replace("\n", "")


def test_several_tables_are_named(folder: Path) -> None:
    (folder / "a.csv").write_text(ROWS)
    (folder / "b.jsonl").write_text('{"image": "0.png", "caption": "a"}')
    with pytest.raises(DataError, match=r"a\.csv, b\.jsonl"):
        read_dataset(folder)
    (folder / "captions.csv").write_text(ROWS)
    dataset = read_dataset(folder)
    assert dataset.source == str(folder / "captions.csv")
    assert [Path(entry.where).name for entry in dataset.skipped] == ["a.csv", "b.jsonl"]


@pytest.mark.parametrize("name", ["t.xlsx", "t.ods", "T.XLS"])
def test_spreadsheets_are_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=f"{name}.*save them as CSV"):
        read_dataset(folder)
    (folder / "0.txt").write_text("a dog")
    assert [Path(entry.where).name for entry in read_dataset(folder).skipped] == [name]


def test_tables_beside_files_of_captions_are_named(folder: Path) -> None:
    (folder / "0.txt").write_text("a dog")
    (folder / "my.csv").write_text(ROWS)
    (folder / "dgo.txt").write_text("of no picture")
    dataset = read_dataset(folder)
    assert [record.captions for record in dataset.records] == [("a dog",), ()]
    assert sorted(Path(entry.where).name for entry in dataset.skipped) == ["dgo.txt", "my.csv"]
    assert not any(entry.is_fatal for entry in dataset.skipped)


def test_files_of_captions_beside_a_table_are_named(folder: Path) -> None:
    (folder / "captions.csv").write_text(ROWS)
    (folder / "0.txt").write_text("another dog")
    (entry,) = read_dataset(folder).skipped
    assert "1 files of captions" in entry.reason


def test_a_table_in_the_folder_above_is_named(folder: Path) -> None:
    (folder.parent / "photos.csv").write_text(ROWS)
    with pytest.raises(DataError, match=r"folder above: .*photos\.csv"):
        read_dataset(folder)


@pytest.mark.parametrize(("name", "content"), [("labels.csv", ROWS), ("_annotations.coco.json", COCO)])
def test_a_table_in_each_folder_of_a_split(tmp_path: Path, name: str, content: str) -> None:
    for seed, split in enumerate(("train", "valid")):
        for number in range(2):
            photo(tmp_path / split / f"{number}.png", 2 * seed + number)
        (tmp_path / split / name).write_text(content)
    assert splits_of(tmp_path) == ["train", "valid"]
    assert len(read_dataset(tmp_path).records) == 4
    (record, _) = read_dataset(tmp_path, "valid").records
    assert record.image == tmp_path / "valid" / "0.png"
    assert [split.name for split in check_dataset(tmp_path).splits] == ["train", "valid"]
    with pytest.raises(DataError, match="no record of the split 'dev'"):
        read_dataset(tmp_path, "dev")


def test_coco_names_of_splits(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        photo(tmp_path / split / "0.png", len(split))
        photo(tmp_path / split / "1.png", 10 + len(split))
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"captions_{split}.json").write_text(COCO)
    assert splits_of(tmp_path) == ["train", "val"]
    assert read_dataset(tmp_path, "val2017").records[0].image == tmp_path / "val2017" / "0.png"
    assert [part.records[0].split for part in read_parts(tmp_path)] == ["train", "val"]
    (tmp_path / "annotations" / "captions_train2014.json").write_text(COCO)
    assert splits_of(tmp_path) == ["train2014", "train2017", "val"]


def test_rows_without_a_split_are_checked(folder: Path) -> None:
    photo(folder / "2.png", 2)
    rows = "image,caption,split\n0.png,a dog,train\n1.png,a cat,val\n2.png,a cow,\n"
    (folder / "t.csv").write_text(rows)
    report = check_dataset(folder / "t.csv")
    assert [split.name for split in report.splits] == ["train", "val", "no split"]
    assert report.is_flawless


def test_pictures_that_cannot_be_read_beside_captioned_ones(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2):
        (folder / f"{number}.txt").write_text(str(number))
    (folder / "phone.heic").write_bytes(b"")
    dataset = load_dataset(folder)
    assert len(dataset.records) == 2
    assert "phone.heic" in caplog.text
    report = check_dataset(folder)
    assert not report.is_usable
    assert report.num_unaccounted == 0
    assert "phone.heic" in CliRunner().invoke(app, ["data", "check", str(folder)]).output


@pytest.mark.parametrize(
    ("name", "content"),
    [("captions.csv", ROWS), ("captions_x.json", COCO), ("records.jsonl", '{"id": 1, "image": "0.png"}')],
)
def test_pictures_that_are_in_no_row_are_named(folder: Path, name: str, content: str) -> None:
    photo(folder / "2.png", 2)
    (folder / name).write_text(content)
    report = check_dataset(folder)
    assert folder / "2.png" in report.unlisted
    assert not report.is_flawless
    result = CliRunner().invoke(app, ["data", "check", str(folder)])
    assert "2.png" in result.output
    assert "nothing is wrong" not in result.output


def test_check_lists_the_first_and_counts_all(folder: Path) -> None:
    (folder / "t.csv").write_text(ROWS + "x.png\n" * 15)
    report = check_dataset(folder / "t.csv")
    assert (report.num_entries, report.num_used, len(report.skipped)) == (17, 2, 15)
    assert report.num_unaccounted == 0
    result = CliRunner().invoke(app, ["data", "check", str(folder / "t.csv")])
    assert result.exit_code == 1
    assert "15 entries cannot be read" in result.output
    assert "row 12 (line 13)" in result.output
    assert "row 13 (line 14)" not in result.output
    assert "2 of 17 entries were read" in result.output
