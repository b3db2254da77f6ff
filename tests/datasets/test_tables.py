"""Spellings, quoting, encodings and forms that tables of captions come in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xattn.datasets import Dataset, read_dataset, splits_of
from xattn.errors import DataError


def read(folder: Path, name: str, content: str | bytes) -> Dataset:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_dataset(path)


def captions(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {record.image.name: record.captions for record in dataset.records}


# --- columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "Image,Caption",
        "Image Path,Description",
        "image-path, text ",
        "imageFilename,TITLE",
        "FileName,Sentence",
        "\ufeffimage,caption",
        "file,Comment",
    ],
)
def test_spelling_of_columns(tmp_path: Path, header: str) -> None:
    assert captions(read(tmp_path, "t.csv", f"{header}\n a.png , a dog \n")) == {"a.png": ("a dog",)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.csv", "image_name| comment_number| comment\na.png| 0| one, two\na.png| 1|  three\n"),
        ("captions.txt", "image,caption\na.png,one, two\na.png,three\n"),
        ("captions.txt", 'image,caption\na.png,"one, two"\na.png,three\n'),
        ("Flickr8k.token.txt", "a.png#0\tone, two\na.png#1\tthree\n"),
        ("results_20130124.token", "a.png#0\tone, two\na.png#1\tthree\n"),
        ("list.txt", "a.png one, two\na.png three\n"),
        ("t.csv", 'a.png,"one, two"\na.png,three\n'),
        ("gcc.tsv", "one, two\ta.png\nthree\ta.png\n"),
        ("t.csv", "sep=;\nimage;caption\na.png;one, two\na.png;three\n"),
        ("t.csv", 'image,caption,,\na.png,"one, two",,\n,,,\na.png,three,,\n\n,\n'),
        ("t.csv", 'image,caption\na.png,"one, two"\nimage,caption\na.png,three\n'),
        ("t.csv", '"image","caption"\r\n"a.png","one, two"\r\n"a.png","three"\r\n'),
        ("t.csv", 'image,caption\ra.png,"one, two"\ra.png,three\r'),
        ("t.jsonl", '{"image": "a.png", "caption": "one, two"}\n\n{"image": "a.png", "caption": "three"}'),
        ("t.jsonl", '[{"image": "a.png", "caption": ["one, two", "three"]}]'),
        ("t.json", '{"image": "a.png", "caption": "one, two"}\n{"image": "a.png", "caption": "three"}\n'),
        ("t.json", '{"a.png": ["one, two", "three"]}'),
        ("t.json", '{"info": {"year": 1}, "data": [{"image": "a.png", "caption": ["one, two", "three"]}]}'),
        (
            "t.json",
            '[\n{"image": "a.png",\n"caption": "one, two"},\n{"image": "a.png", "caption": "three"}]',
        ),
    ],
)
def test_forms_of_tables(tmp_path: Path, name: str, content: str) -> None:
    dataset = read(tmp_path, name, content)
    assert captions(dataset) == {"a.png": ("one, two", "three")}
    assert not dataset.skipped


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", "7", "list of objects"),
        ("t.json", '{"a": {"b": 1}}', "list of objects"),
        ("t.json", "{", "cannot be read"),
        ("t.csv", "one line without any separator\n", "no column with a picture"),
        ("t.csv", "image,caption\n".encode("utf-16-le"), "UTF-16"),
        ("t.csv", b"caf\xe9,caption\na.png,b\n", "no column with a picture"),
        ("t.json", "[]", "is empty"),
        ("t.csv", "image,caption\n", "is empty"),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"(?s){name}.*{message}|{message}.*{name}"):
        read(tmp_path, name, content)


def test_paths_of_windows(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"")
    (record,) = read(tmp_path, "t.csv", "image,caption\np\\a.png,one\n").records
    assert record.image == tmp_path / "p" / "a.png"


def test_pictures_in_a_folder_beside_the_table(tmp_path: Path) -> None:
    for folder in ("Images", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "Images" / "a.png").write_bytes(b"")
    (record,) = read(tmp_path, "captions.txt", "image,caption\na.png,one\n").records
    assert record.image == tmp_path / "Images" / "a.png"


# --- quotes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "caption"),
    [
        ('"a ""red"" dog"', 'a "red" dog'),
        ('"a \\"red\\" dog"', 'a "red" dog'),
        ('"two\nlines"', "two\nlines"),
        ('"two\n\nlines"', "two\n\nlines"),
        ('"stop" is on the sign', '"stop" is on the sign'),
        ('a 5" nail', 'a 5" nail'),
        ("'a dog'", "'a dog'"),
        ('"the sign says stop', '"the sign says stop'),
        ('"', '"'),
    ],
)
@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_quotes(tmp_path: Path, separator: str, field: str, caption: str) -> None:
    lines = [["image", "caption"], ["a.png", "before"], ["b.png", field], ["c.png", "after"]]
    content = "".join(separator.join(line) + "\n" for line in lines)
    dataset = read(tmp_path, "t.csv", content)
    assert captions(dataset) == {"a.png": ("before",), "b.png": (caption,), "c.png": ("after",)}
    assert not dataset.skipped


def test_a_quote_that_swallows_rows_is_named(tmp_path: Path) -> None:
    content = 'image,caption\na.png,"open\nb.png,one\nc.png,it ends"\nd.png,two\n'
    dataset = read(tmp_path, "t.csv", content)
    (entry,) = dataset.skipped
    assert "line 2" in entry.where
    assert "quote" in entry.reason
    assert captions(dataset) == {"b.png": ("one",), "c.png": ('it ends"',), "d.png": ("two",)}


def test_fields_of_any_length(tmp_path: Path) -> None:
    notes = "x" * 200_000
    dataset = read(tmp_path, "t.csv", f"image,caption,notes\na.png,one,{notes}\nb.png,{notes},\n")
    assert captions(dataset) == {"a.png": ("one",), "b.png": (notes,)}


# --- encodings ------------------------------------------------------------------------------------------

TABLES = {
    "t.csv": "image,caption\na.png,ein Kästchen\n",
    "t.tsv": "image\tcaption\na.png\tein Kästchen\n",
    "captions.txt": "image,caption\na.png,ein Kästchen\n",
    "t.jsonl": '{"image": "a.png", "caption": "ein Kästchen"}\n',
    "t.json": '[{"image": "a.png", "caption": "ein Kästchen"}]',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", TABLES)
def test_encodings_with_a_mark(tmp_path: Path, name: str, encoding: str) -> None:
    assert captions(read(tmp_path, name, TABLES[name].encode(encoding))) == {"a.png": ("ein Kästchen",)}


@pytest.mark.parametrize("encoding", ["latin-1", "mac-roman", "cp1252"])
@pytest.mark.parametrize("name", TABLES)
def test_other_encodings_are_named_with_advice(tmp_path: Path, name: str, encoding: str) -> None:
    dataset = read(tmp_path, name, TABLES[name].encode(encoding))
    (entry,) = dataset.skipped
    assert name in entry.where
    assert "UTF-8" in entry.reason
    assert not dataset.records


def test_other_encodings_of_coco_and_records(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"")
    content = {
        "images": [{"id": 0, "file_name": "0.png"}],
        "annotations": [{"id": 1, "image_id": 0, "caption": "ä"}, {"id": 2, "image_id": 0, "caption": "b"}],
    }
    dataset = read(tmp_path, "captions_x.json", json.dumps(content, ensure_ascii=False).encode("latin-1"))
    assert captions(dataset) == {"0.png": ("b",)}
    assert [entry.kind for entry in dataset.skipped] == ["caption"]
    marked = json.dumps(content, ensure_ascii=False).encode("utf-8-sig")
    assert captions(read(tmp_path, "captions_x.json", marked)) == {"0.png": ("ä", "b")}
    (tmp_path / "captions_x.json").unlink()
    line = '{"id": 1, "image": "0.png", "captions": "ä"}'
    (tmp_path / "records.jsonl").write_bytes(line.encode("utf-8-sig") + b"\n" + line.encode("latin-1"))
    dataset = read_dataset(tmp_path)
    assert captions(dataset) == {"0.png": ("ä",)}
    assert "UTF-8" in dataset.skipped[0].reason


# --- what captions may be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("dog", ("dog",)),
        (["a", "b", " a "], ("a", "b")),
        ([], ()),
        (None, ()),
        ({"en": "a dog"}, None),
        (7, None),
        ([["a"]], None),
        (["a", None], None),
        (True, None),
    ],
)
def test_captions_of_records(tmp_path: Path, value: object, expected: tuple[str, ...] | None) -> None:
    lines = [{"id": "x", "image": "x.png", "captions": value}, {"id": "y", "image": "y.png"}]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = read_dataset(tmp_path)
    assert captions(dataset).get("x.png") == expected
    assert ["records.jsonl:1" in entry.where for entry in dataset.skipped] == [True] * (expected is None)


def test_phrases_of_records(tmp_path: Path) -> None:
    line = {
        "id": 1,
        "image": "a.png",
        "captions": ["a cat", "", "a dog", "a cat "],
        "phrases": [
            {"phrase": "cat", "boxes": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]], "in_captions": [3, 0]},
            {"phrase": "dog", "box": [0, 0, 1, 0.5], "in_captions": [1, 2, 9]},
            {"phrase": "sky", "box": [0, 0, 1, 0.1]},
        ],
    }
    (tmp_path / "records.jsonl").write_text(json.dumps(line))
    (record,) = read_dataset(tmp_path).records
    assert record.captions == ("a cat", "a dog")
    assert [(p.name, p.box, p.in_captions) for p in record.phrases] == [
        ("cat", (0, 0, 0.5, 1), (0,)),
        ("cat", (0.5, 0, 1, 1), (0,)),
        ("dog", (0, 0, 1, 0.5), (1,)),
        ("sky", (0, 0, 1, 0.1), ()),
    ]


@pytest.mark.parametrize("size", [100, 200_000])
def test_quoted_fields_of_any_length(tmp_path: Path, size: int) -> None:
    caption = "a, b" * (size // 4)
    assert captions(read(tmp_path, "t.csv", f'image,caption\na.png,"{caption}"\n')) == {"a.png": (caption,)}


# --- ids ------------------------------------------------------------------------------------------------


def test_ids_that_come_again(tmp_path: Path) -> None:
    lines = [{"id": id, "image": f"{n}.png"} for n, id in enumerate((1, "2", "1"))]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = read_dataset(tmp_path)
    assert list(captions(dataset)) == ["0.png", "1.png"]
    assert ["records.jsonl:3" in entry.where for entry in dataset.skipped] == [True]


def test_ids_of_coco(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"")
    size = {"width": 10, "height": 10}
    images = [{"id": n, "file_name": f"{n}.png", **size} for n in range(2)]
    again = [{"id": 1, "file_name": "2.png", **size}]
    notes = [{"id": 7, "image_id": n, "caption": f"picture {n}"} for n in range(2)]
    (tmp_path / "captions_x.json").write_text(json.dumps({"images": images + again, "annotations": notes}))
    # The other file writes ids as strings, and calls one picture otherwise.
    listed = [{"id": "0", "file_name": "0.png", **size}, {"id": "1", "file_name": "other.png", **size}]
    boxes = [{"id": 8, "image_id": "0", "category_id": "3", "bbox": [0, 0, 5, 5]}]
    instances = {"images": listed, "annotations": boxes, "categories": [{"id": 3, "name": "cat"}]}
    (tmp_path / "instances_x.json").write_text(json.dumps(instances))
    dataset = read_dataset(tmp_path)
    assert captions(dataset) == {"0.png": ("picture 0",), "1.png": ("picture 1",)}
    assert [box.name for box in dataset.records[0].boxes] == ["cat"]
    assert [Path(entry.where.partition(",")[0]).name for entry in dataset.skipped] == [
        "captions_x.json",
        "instances_x.json",
    ]
    assert dataset.num_used + 2 == dataset.num_entries == 3 + 2 + 2 + 1


# --- Parquet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("place", ["", "data"])
def test_parquet_files_that_are_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool, place: str
) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("XATTN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "d" / place
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        for part in range(2):
            name = f"{split}-{part}.png"
            table = {"img": [b"pixels" if inside else name], "Caption": [name], "other": [1]}
            parquet.write_table(arrow.table(table), folder / f"{split}-{part:05}-of-00002.parquet")
    assert splits_of(tmp_path / "d") == ["train", "validation"]
    dataset = read_dataset(tmp_path / "d", "validation")
    assert [record.captions for record in dataset.records] == [("validation-0.png",), ("validation-1.png",)]
    assert not dataset.skipped
    if inside:
        assert [record.image.read_bytes() for record in dataset.records] == [b"pixels"] * 2
    else:
        assert [record.image for record in dataset.records] == [folder / r.id for r in dataset.records]


def test_columns_of_parquet_by_their_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("XATTN_CACHE", str(tmp_path / "cache"))
    columns = {
        "struct.parquet": {"pixels": [{"bytes": b"x", "path": "a.png"}], "text": ["one"]},
        "img2dataset.parquet": {"path": ["a"], "jpg": [b"x"], "caption": ["one"]},
        "large.parquet": {"image": arrow.array([b"x"], arrow.large_binary()), "captions": [["one"]]},
    }
    for name, table in columns.items():
        parquet.write_table(arrow.table(table), tmp_path / name)
        (record,) = read_dataset(tmp_path / name).records
        assert (record.captions, record.image.read_bytes()) == (("one",), b"x"), name
        assert name in record.origin
    parquet.write_table(arrow.table({"words": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet has no column with a picture"):
        read_dataset(tmp_path / "x.parquet")
    (tmp_path / "y.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"y\.parquet cannot be read"):
        read_dataset(tmp_path / "y.parquet")
