"""Files of any content: a dataset whose count is right, or a DataError, and nothing else."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.test_counting import check_count, scratch
from xattn.datasets import read_dataset
from xattn.errors import DataError


def small_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in (("ä" * 60 + ".png", b"x" * 600), ("ä" * 60 + ".txt", b"a dog")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def small_parquet() -> bytes:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    parquet.write_table(arrow.table({"image": [b"x", b"y"], "caption": ["a dog", "a cat"]}), file)
    return file.getvalue()


def small_coco() -> bytes:
    box = {"image_id": 1, "id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}
    content = {
        "images": [{"id": 1, "file_name": "0.png", "width": 9, "height": 9}],
        "annotations": [{"image_id": 1, "id": 2, "caption": "a dog"}, box],
        "categories": [{"id": 1, "name": "dog"}],
    }
    return json.dumps(content).encode()


RECORD = {
    "id": 1,
    "image": "0.png",
    "split": "train",
    "captions": ["a dog"],
    "boxes": [{"name": "dog", "box": [0, 0, 1, 1]}],
    "phrases": [{"phrase": "dog", "boxes": [[0, 0, 1, 1]], "in_captions": [0]}],
}
NEGATIVE = {"id": 1, "set": "s", "kind": "k", "pos": "a dog", "neg": "a cat", "votes": 3}
WHOLE = {
    "t.csv": b'image,caption,split\n0.png,"a ""dog""",train\n1.png,a cat,\n',
    "captions.txt": b"image,caption\n0.png,a dog, asleep\n",
    "results.token": b"0.png#0\ta dog\n0.png#1\ta cat\n",
    "t.jsonl": b'{"image": "0.png", "caption": "a dog"}\n{"image": "1.png", "captions": ["a cat"]}\n',
    "t.json": b'[{"image": "0.png", "caption": "a dog"}, {"image": "1.png", "captions": ["a cat"]}]',
    "captions_x.json": small_coco(),
    "records.jsonl": json.dumps(RECORD).encode() + b"\n",
    "0.txt": b"a dog\na cat\n",
    "0.json": b'{"captions": ["a dog", "a cat"]}',
    "d.tar": small_tar(),
    "t.parquet": small_parquet(),
}
SNIPPETS = [b'"', b"null", b"1e999", b"[", b"{}", b"\xff", b"\0", b"NaN"]
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 3),
        st.binary(max_size=3) | st.sampled_from(SNIPPETS),
    ),
    max_size=4,
)
"""(place, bytes taken out, bytes put in)"""


@pytest.mark.parametrize("name", WHOLE)
@given(edits=EDITS)
def test_damaged_files(name: str, edits: list[tuple[float, int, bytes]]) -> None:
    content = WHOLE[name]
    for place, removed, added in edits:
        start = int(place * (len(content) + 1))
        content = content[:start] + added + content[start + removed :]
    read_or_refuse(name, content)


@pytest.mark.parametrize("name", WHOLE)
@given(content=st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8")))
def test_any_bytes(name: str, content: bytes) -> None:
    read_or_refuse(name, content)


def read_or_refuse(name: str, content: bytes) -> None:
    with scratch() as folder:
        (folder / "0.png").write_bytes(b"")
        (folder / name).write_bytes(content)
        if name == "records.jsonl":
            (folder / "hard_negatives.jsonl").write_bytes(json.dumps(NEGATIVE).encode() + b"\n" + content)
        is_of_folder = name in ("records.jsonl", "0.txt", "0.json")
        try:
            dataset = read_dataset(folder if is_of_folder else folder / name)
        except DataError:
            return
        check_count(dataset)
