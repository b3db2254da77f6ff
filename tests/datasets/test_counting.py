"""Generated datasets with random damage: what is read and what is named as skipped is all that was written.

Good entries are read exactly whatever is beside them; of each damaged one the place is named.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xattn.datasets import Dataset, Record, read_dataset

WORDS = st.text(st.sampled_from("abc äß\"',;|\\#0"), min_size=1, max_size=12).filter(
    lambda text: text.strip(" ") != ""
)
LINES = st.lists(WORDS, min_size=1, max_size=3).map("\n".join)
"""Captions with line breaks, as spreadsheets write them."""

PIXELS = b"not decoded here"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one example, with a cache of its own."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XATTN_CACHE", f"{name}/cache")
        (Path(name) / "data").mkdir()
        yield Path(name) / "data"


def check_count(dataset: Dataset, num_written: int | None = None) -> None:
    num_skipped = sum(entry.kind != "file" for entry in dataset.skipped)
    assert dataset.num_used + num_skipped == dataset.num_entries
    if num_written is not None:
        assert dataset.num_entries == num_written
    assert all(entry.where and entry.reason for entry in dataset.skipped)


def captions_by_name(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {record.image.name: record.captions for record in dataset.records}


# --- separated columns ----------------------------------------------------------------------------------

BAD_ROWS = [
    b"{name}",
    b"{name},a,b,c",
    b",a caption without a picture",
    b"{name},caf\xe9",
    b"{name},a\0b",
    b"http://x.org/{name},a caption",
    b'{name},"a, b" c',
]


@given(
    rows=st.lists(LINES | st.sampled_from(BAD_ROWS) | WORDS.map(lambda text: ("open", text)), max_size=12)
)
def test_rows_of_separated_tables(rows: list[str | bytes | tuple[str, str]]) -> None:
    content, good, bad, opened = (
        b"image,caption\n",
        dict[str, tuple[str, ...]](),
        set[int](),
        dict[str, int](),
    )
    num_lines = 1
    for number, row in enumerate(rows):
        name = f"{number}.png"
        if isinstance(row, bytes):
            written = row.replace(b"{name}", name.encode()) + b"\n"
            bad.add(num_lines + 1)
        elif isinstance(row, tuple):
            written = f'{name},"{row[1].replace(chr(34), "").replace(",", "")}.\n'.encode()
            opened[name] = num_lines + 1
        else:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow([name, row])
            written, good[name] = text.getvalue().encode(), (row.strip(),)
        content += written
        num_lines += written.count(b"\n")
    with scratch() as folder:
        (folder / "t.csv").write_bytes(content)
        if not rows:
            return
        dataset = read_dataset(folder / "t.csv")
    check_count(dataset, len(rows))
    named = " ".join(entry.where for entry in dataset.skipped)
    read = captions_by_name(dataset)
    assert {name: read.get(name) for name in good} == good
    assert all(f"(line {line})" in named for line in bad)
    assert all((name in read) != (f"(line {line})" in named) for name, line in opened.items())
    assert read.keys() <= good.keys() | opened.keys()


# --- JSON -----------------------------------------------------------------------------------------------

BAD_LINES: list[Any] = [
    b'{"image": "x.png"',
    b"7",
    b'{"image": "x.png", "caption": "caf\xe9"}',
    {"caption": "without a picture"},
    {"image": "x.png", "caption": 7},
    {"image": "x.png", "caption": {"en": "a dog"}},
    {"image": "x.png", "caption": ["a", ["b"]]},
    {"image": None, "caption": "a dog"},
    {"image": ["x.png"], "caption": "a dog"},
    {"image": "x.png", "caption": "\ud800"},
]


def as_line(entry: Any) -> bytes:
    return entry if isinstance(entry, bytes) else json.dumps(entry).encode()


@given(rows=st.lists(LINES | st.sampled_from(BAD_LINES), min_size=1, max_size=12))
def test_json_lines(rows: list[Any]) -> None:
    lines = [
        as_line({"image": f"{number}.png", "caption": row} if isinstance(row, str) else row)
        for number, row in enumerate(rows)
    ]
    good = {f"{n}.png": (row.strip(),) for n, row in enumerate(rows) if isinstance(row, str)}
    with scratch() as folder:
        (folder / "t.jsonl").write_bytes(b"\n".join(lines))
        dataset = read_dataset(folder / "t.jsonl")
    check_count(dataset, len(rows))
    assert captions_by_name(dataset) == good
    bad = [number for number, row in enumerate(rows, 1) if not isinstance(row, str)]
    assert [int(entry.where.rpartition(":")[2]) for entry in dataset.skipped] == bad


BAD_RECORDS: list[Any] = [
    b'{"id": "x"',
    b"[]x",
    {"id": "x", "captions": ["a"]},
    {"image": "x.png", "captions": ["a"]},
    {"id": "x", "image": "x.png", "captions": {"en": "a dog"}},
    {"id": "x", "image": "x.png", "captions": [1]},
    {"id": "x", "image": "x.png", "boxes": {}},
    {"id": "x", "image": "x.png", "phrases": "a dog"},
    {"id": "x", "image": 7},
]
BAD_BOXES: list[Any] = [None, [], [0, 0, 1], [0, 0, 0, 1], ["a", 0, 1, 1], [0, 0, float("nan"), 1], {}]


@given(
    rows=st.lists(st.lists(WORDS, max_size=3) | st.sampled_from(BAD_RECORDS), min_size=1, max_size=10),
    boxes=st.lists(st.sampled_from([[0.1, 0.2, 0.7, 0.9], *BAD_BOXES]), max_size=4),
)
def test_records(rows: list[Any], boxes: list[Any]) -> None:
    good = {f"{n}.png": row for n, row in enumerate(rows) if isinstance(row, list)}
    lines = []
    for number, row in enumerate(rows):
        entry = row
        if isinstance(row, list):
            phrase = {"phrase": "a cat", "boxes": boxes, "in_captions": [0]}
            entry = {"id": number, "image": f"{number}.png", "captions": row, "phrases": [phrase]}
        lines.append(as_line(entry))
    with scratch() as folder:
        # A first line that could only be part of a list would make the file one list.
        (folder / "records.jsonl").write_bytes(
            b"\n".join([b'{"id": "first", "image": "first.png"}', *lines])
        )
        dataset = read_dataset(folder)
    num_bad_boxes = sum(box in BAD_BOXES for box in boxes) * len(good)
    check_count(dataset, len(rows) + 1 + num_bad_boxes)
    assert sum(entry.kind == "box" for entry in dataset.skipped) == num_bad_boxes
    assert sum(entry.kind == "sample" for entry in dataset.skipped) == len(rows) - len(good)
    read = captions_by_name(dataset)
    assert read.pop("first.png") == ()
    assert read == {name: tuple(dict.fromkeys(w.strip() for w in row)) for name, row in good.items()}
    for record in dataset.records[1:]:
        assert len(record.phrases) == len(boxes) - sum(box in BAD_BOXES for box in boxes)


# --- COCO -----------------------------------------------------------------------------------------------

COCO_DAMAGE: dict[str, tuple[str, dict[str, Any] | None]] = {
    "no file name": ("images", {"file_name": None}),
    "number as name": ("images", {"file_name": 7}),
    "no id": ("images", {"id": None}),
    "no image": ("images", None),
    "null caption": ("captions", {"caption": None}),
    "caption as number": ("captions", {"caption": 7}),
    "caption of no picture": ("captions", {"image_id": 77}),
    "caption without picture": ("captions", {"image_id": None}),
    "no caption": ("captions", None),
    "polygon": ("boxes", {"bbox": None}),
    "no area": ("boxes", {"bbox": [5, 5, 0, 9]}),
    "outside": ("boxes", {"bbox": [500, 5, 9, 9]}),
    "three numbers": ("boxes", {"bbox": [1, 2, 3]}),
    "box of no picture": ("boxes", {"image_id": 77}),
    "unknown category": ("boxes", {"category_id": 9}),
    "text as number": ("boxes", {"bbox": ["1", 2, 3, 4]}),
}


@given(damage=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(sorted(COCO_DAMAGE))), max_size=6))
def test_coco(damage: list[tuple[int, str]]) -> None:
    content: dict[str, list[Any]] = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 160, "height": 120} for i in range(4)],
        "captions": [{"id": 10 + i, "image_id": i, "caption": f"picture {i}"} for i in range(4)],
        "boxes": [
            {"id": 20 + i, "image_id": i, "category_id": 1, "bbox": [8, 8, 50, 50]} for i in range(4)
        ],
    }
    damaged: set[tuple[str, int]] = set()
    for place, kind in damage:
        part, change = COCO_DAMAGE[kind]
        entry = content[part][place]
        content[part][place] = {**entry, **change} if change is not None and entry is not None else None
        damaged.add((part, place))
    lost = {place for part, place in damaged if part == "images"}
    with scratch() as folder:
        for number in range(4):
            (folder / f"{number}.png").write_bytes(PIXELS)
        (folder / "captions_x.json").write_text(
            json.dumps(
                {
                    "images": content["images"],
                    "annotations": content["captions"] + content["boxes"],
                    "categories": [{"id": 1, "name": "ball"}, {"id": 2}, 3],
                }
            )
        )
        dataset = read_dataset(folder / "captions_x.json")
    check_count(dataset, 12)
    assert {int(record.id) for record in dataset.records} == {0, 1, 2, 3} - lost
    for record in dataset.records:
        place = int(record.id)
        assert record.captions == (() if ("captions", place) in damaged else (f"picture {place}",))
        assert len(record.boxes) == (("boxes", place) not in damaged)
    # What is damaged, and what belongs to an image that is: each is named once.
    broken = damaged | {(part, place) for part in ("captions", "boxes") for place in lost}
    assert len(dataset.skipped) == len(broken)


# --- files beside pictures ------------------------------------------------------------------------------

SIDECARS: dict[str, tuple[str, bytes, tuple[str, ...] | None]] = {
    "text": (".txt", b"one\ntwo\n", ("one", "two")),
    "capitals": (".TXT", b"\xef\xbb\xbfone\r\ntwo", ("one", "two")),
    "UTF-16": (".txt", "one".encode("utf-16"), ("one",)),
    "object": (".json", b'{"caption": "one"}', ("one",)),
    "list": (".Json", b'\xef\xbb\xbf["one"]', ("one",)),
    "null": (".json", b'{"caption": null}', ()),
    "Latin-1": (".txt", b"caf\xe9", None),
    "half of UTF-16": (".txt", b"\xff\xfea", None),
    "no JSON": (".json", b"{", None),
    "number": (".json", b'{"captions": [1]}', None),
    "languages": (".json", b'{"captions": {"en": "a"}}', None),
    "list in a list": (".json", b'[["a"]]', None),
    "deep": (".json", b"[" * 100_000, None),
}


@given(files=st.lists(st.sampled_from(sorted(SIDECARS)), min_size=1, max_size=8), orphans=st.integers(0, 2))
def test_folder(files: list[str], orphans: int) -> None:
    with scratch() as folder:
        (folder / "first.png").write_bytes(PIXELS)
        (folder / "first.txt").write_text("first")
        for number, kind in enumerate(files):
            (folder / f"{number}.png").write_bytes(PIXELS)
            (folder / f"{number}{SIDECARS[kind][0]}").write_bytes(SIDECARS[kind][1])
        for number in range(orphans):
            (folder / f"orphan {number}.txt").write_text("of no picture")
        dataset = read_dataset(folder)
    check_count(dataset, 2 * len(files) + 2)
    read = captions_by_name(dataset)
    named = " ".join(entry.where for entry in dataset.skipped if entry.kind == "caption")
    for number, kind in enumerate(files):
        assert read[f"{number}.png"] == (SIDECARS[kind][2] or ())
        assert (f"{number}{SIDECARS[kind][0]}" in named) == (SIDECARS[kind][2] is None)
    assert sum("orphan" in entry.where for entry in dataset.skipped) == orphans


# --- tar files ------------------------------------------------------------------------------------------

NAMES = st.lists(
    st.text(st.sampled_from("ab.1- ä"), min_size=1, max_size=8).filter(lambda name: name[0] not in ". "),
    min_size=1,
    max_size=5,
    unique_by=lambda name: name,
)


def packed(members: list[tuple[str, bytes]]) -> tuple[bytes, list[int]]:
    """(the archive, where each header is)"""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        return file.getvalue(), [entry.offset for entry in tar]


@given(
    names=NAMES,
    folder_name=st.sampled_from(["", "p.q/", "./"]),
    order=st.randoms(use_true_random=False),
    damage=st.sampled_from(["none", "header", "cut", "unclosed", "joined", "two", "page", "cut gzip"]),
    place=st.floats(0, 1, exclude_max=True),
    compressed=st.booleans(),
)
def test_tar(
    names: list[str], folder_name: str, order: Any, damage: str, place: float, compressed: bool
) -> None:
    samples = {
        f"{folder_name}{name}": (f"{folder_name}{name}.jpg", f"caption {number}")
        for number, name in enumerate(names)
    }
    members = [(picture, PIXELS * number) for number, (picture, _) in enumerate(samples.values(), 1)]
    members += [(f"{name}.txt", caption.encode()) for name, (_, caption) in samples.items()]
    order.shuffle(members)
    archive, headers = packed(members)
    last = headers[-1] + 1024
    cut = 1 + int(place * (last - 1))
    content = {
        "none": archive,
        "joined": archive[: last // 2 // 512 * 512] + archive[last // 2 // 512 * 512 :],
        "header": archive,
        "cut": archive[:cut],
        "unclosed": archive[:last],
        "two": packed(members[:1])[0] + packed(members[1:])[0],
        "page": b"<html>not found</html>",
        "cut gzip": gzip.compress(archive)[: -1 - int(place * 30)],
    }[damage]
    if damage == "header":
        where = headers[int(place * len(headers))]
        content = content[:where] + b"\xff" * 512 + content[where + 512 :]
    if compressed and damage != "cut gzip":
        content = gzip.compress(content)
    with scratch() as folder:
        (folder / "x.tar").write_bytes(content)
        dataset = read_dataset(folder / "x.tar")
        pictures = {name_in_tar(record): record.image.read_bytes() for record in dataset.records}
    check_count(dataset)
    written = {picture: caption for picture, caption in samples.values()}
    contents = dict(members)
    for record in dataset.records:
        name = name_in_tar(record)
        assert pictures[name] == contents[name]
        assert record.captions in ((), (written[name],)), "captions of another sample"
    complete = {name for name in pictures if captions_of(dataset, name)} == written.keys()
    fatal = [entry for entry in dataset.skipped if entry.is_fatal]
    if damage in ("none", "joined", "two"):
        assert complete
        assert not dataset.skipped
    else:
        assert fatal
        assert all("x.tar" in entry.where for entry in fatal)
    if damage == "header":
        assert len(pictures) >= len(written) - 1, "what follows the damage is read"
    assert complete or fatal


def name_in_tar(record: Record) -> str:
    return record.origin.partition(": ")[2]


def captions_of(dataset: Dataset, name: str) -> tuple[str, ...]:
    return next(r.captions for r in dataset.records if name_in_tar(r) == name)


# --- Parquet --------------------------------------------------------------------------------------------


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["bytes", "path", "null", "empty"]), WORDS), min_size=1, max_size=8
    )
)
def test_parquet_with_pictures(rows: list[tuple[str, str]]) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    values: dict[str, Any] = {
        "bytes": {"bytes": PIXELS, "path": None},
        "path": {"bytes": None, "path": "elsewhere.png"},
        "null": None,
        "empty": {"bytes": None, "path": None},
    }
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    table = arrow.table(
        {
            "image": arrow.array([values[kind] for kind, _ in rows], kind),
            "caption": [caption for _, caption in rows],
        }
    )
    with scratch() as folder:
        parquet.write_table(table, folder / "train-0.parquet")
        dataset = read_dataset(folder / "train-0.parquet")
    check_count(dataset, len(rows))
    good = [caption.strip() for kind, caption in rows if kind in ("bytes", "path")]
    assert [record.captions for record in dataset.records] == [(caption,) for caption in good]
    bad = [f"row {number}" for number, (kind, _) in enumerate(rows, 1) if kind in ("null", "empty")]
    assert [entry.where.rpartition(", ")[2] for entry in dataset.skipped] == bad
    assert {record.split for record in dataset.records} <= {"train"}
