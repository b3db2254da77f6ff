"""`load_dataset`: tables, parts and captions beside pictures that are complete, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.datasets.photos import photo
from xattn.datasets import load_dataset, splits_of
from xattn.errors import DataError, MissingExtra


def captions_of(path: Path, split: str | None = None) -> dict[str, tuple[str, ...]]:
    return {record.image.name: record.captions for record in load_dataset(path, split).records}


ROWS = [("a.png", "one, with a comma"), ("a.png", "two"), ("b.png", 'a "quoted" one'), ("a.png", " two ")]
EXPECTED = {"a.png": ("one, with a comma", "two"), "b.png": ('a "quoted" one',)}


@pytest.mark.parametrize(
    ("name", "separator"), [("captions.csv", ","), ("t.csv", ";"), ("t.csv", "\t"), ("t.tsv", "\t")]
)
def test_separated_tables(tmp_path: Path, name: str, separator: str) -> None:
    for seed, picture in enumerate(("a.png", "b.png")):
        photo(tmp_path / picture, seed)
    quoted = [[f'"{field.replace(chr(34), chr(34) * 2)}"' for field in row] for row in ROWS]
    lines = [separator.join(row) for row in [["image", "caption"], *quoted]]
    (tmp_path / name).write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    given = tmp_path if name == "captions.csv" else tmp_path / name
    assert captions_of(given) == EXPECTED


def test_json_lines_and_splits(tmp_path: Path) -> None:
    for seed, picture in enumerate(("a.png", "b.png")):
        photo(tmp_path / "pictures" / picture, seed)
    rows = [
        {"file_name": "pictures/a.png", "text": "one", "split": "train"},
        {"file_name": "pictures/b.png", "captions": ["two", "", "three"], "split": "val"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert splits_of(tmp_path) == ["train", "val"]
    assert captions_of(tmp_path, "val") == {"b.png": ("two", "three")}
    assert load_dataset(tmp_path, "val").records[0].num_blank == 1
    with pytest.raises(DataError, match=r"split 'dev'; it has \['train', 'val'\]"):
        load_dataset(tmp_path, "dev")


def test_parquet_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xattn.datasets.parquet.find_spec", lambda _: None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtra, match=r"xattn\[data\]"):
        load_dataset(tmp_path / "x.parquet")


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for seed, picture in enumerate(("a.png", "b.png")):
        photo(tmp_path / picture, seed)
    table = {"image": [p for p, _ in ROWS], "caption": [c for _, c in ROWS], "pixels": [b"x"] * len(ROWS)}
    parquet.write_table(arrow.table(table), tmp_path / "x.parquet")
    assert captions_of(tmp_path / "x.parquet") == EXPECTED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,words\na.png,one\n", "no column with a caption.*caption.*found image, words"),
        ("thing,caption\na.png,one\n", "no column with a picture.*found thing, caption"),
        ("image,caption\na.png,one,more\n", r"row 1 \(line 2\): it has 3 fields, not 2"),
        ("image,caption\na.png\n", r"row 1 \(line 2\): it has 1 fields, not 2"),
        ("", "is empty"),
        ("image,caption\nabsent.png,one\n", "1 of 1 pictures .* missing.*data check"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"caption": "one"}, ("one",)),
        ({"captions": ["one", "two"]}, ("one", "two")),
        (["one"], ("one",)),
        ("one", ("one",)),
    ],
)
def test_json_beside_the_picture(tmp_path: Path, content: object, expected: tuple[str, ...]) -> None:
    photo(tmp_path / "a.png", 0)
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "b.txt").write_text("of no picture")
    assert captions_of(tmp_path) == {"a.png": expected}


def test_bad_json_beside_the_picture(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 0)
    (tmp_path / "a.json").write_text('{"captions": [1]}')
    with pytest.raises(DataError, match=r"a\.json.*captions to be a string or a list"):
        load_dataset(tmp_path)
