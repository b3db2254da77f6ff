"""Captioned pictures inside archives: WebDataset's tar files and Hugging Face's datasets."""

from __future__ import annotations

import io
import json
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.datasets.photos import photo
from xattn.cli import app
from xattn.datasets import load_dataset, read_dataset, splits_of
from xattn.datasets.check import check_dataset
from xattn.errors import DataError, MissingExtra
from xattn.training.data import load_own
from xattn.training.settings import Settings

needs_data = pytest.mark.skipif(
    any(find_spec(package) is None for package in ("webdataset", "fsspec", "datasets")),
    reason="the extra `data` is not installed",
)
pytestmark = needs_data


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XATTN_CACHE", str(folder))
    return folder


@pytest.fixture
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return photo(tmp_path_factory.mktemp("one") / "a.png", 0).read_bytes()


def shard(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def numbered(path: Path, numbers: range, picture: bytes) -> Path:
    files: dict[str, bytes] = {}
    for number in numbers:
        files |= {
            f"p/{number}.png": picture,
            f"p/{number}.txt": f"picture {number}\nagain {number}\n".encode(),
        }
    return shard(path, files)


def captions(source: object, split: str | None = None) -> list[tuple[str, ...]]:
    return [record.captions for record in load_dataset(str(source), split).records]


def test_shards_by_pattern_folder_and_url(tmp_path: Path, picture: bytes) -> None:
    fsspec = pytest.importorskip("fsspec")
    for number in range(3):
        numbered(tmp_path / f"train-{number:02}.tar", range(4 * number, 4 * number + 4), picture)
    numbered(tmp_path / "val-00.tar", range(12, 15), picture)
    assert splits_of(tmp_path) == ["train", "val"]
    assert captions(tmp_path, "val") == [(f"picture {n}", f"again {n}") for n in range(12, 15)]
    pattern = f"{tmp_path}/train-{{00..02}}.tar"
    assert captions(pattern) == [(f"picture {n}", f"again {n}") for n in range(12)]
    with fsspec.open("memory://bucket/train-00.tar", "wb") as file:
        file.write((tmp_path / "train-00.tar").read_bytes())
    assert captions("memory://bucket/train-{00..00}.tar") == captions(tmp_path / "train-00.tar")
    own = load_own(tmp_path, Settings())
    assert (len(own.train), len(own.held_out)) == (12, 3)


def test_shards_are_unpacked_once_and_again_when_they_change(
    tmp_path: Path, cache: Path, picture: bytes
) -> None:
    path = numbered(tmp_path / "some.tar", range(2), picture)
    first = load_dataset(path).records
    written = first[0].image.stat().st_ino
    assert load_dataset(path).records == first
    assert first[0].image.stat().st_ino == written, "unpacked again"
    numbered(path, range(3), picture)
    assert len(load_dataset(path).records) == 3
    assert not list((cache / "datasets").glob(".*")), "something half made was left"


def test_what_samples_may_hold(tmp_path: Path, cache: Path, picture: bytes) -> None:
    path = shard(
        tmp_path / "some.tar",
        {
            "../../out.PNG": picture,
            "../../out.txt": b"stays inside",
            "a.b/one.png": picture,
            "a.b/one.json": json.dumps({"caption": "from json", "url": "x"}).encode(),
            "two.png": picture,
            "two.json": json.dumps({"caption": None}).encode(),
            "none.txt": b"of no picture",
        },
    )
    assert captions(path) == [("stays inside",), ("from json",), ()]
    for record in load_dataset(path).records:
        assert cache.resolve() in record.image.resolve().parents


def test_bad_shards_are_told(tmp_path: Path, cache: Path, picture: bytes) -> None:
    path = shard(tmp_path / "cut.tar", {"a.png": picture, "a.txt": b"one", "b.png": picture * 9})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cut\.tar: a\.png: the archive ends"):
        load_dataset(path)
    with pytest.raises(DataError, match=r"train-01\.tar cannot be read"):
        load_dataset(f"{tmp_path}/train-{{01..02}}.tar")
    bad = shard(tmp_path / "bad.tar", {"a.png": picture, "a.json": b'{"captions": [1]}'})
    with pytest.raises(DataError, match=r"a\.json.*captions to be a string or a list"):
        load_dataset(bad)
    assert not list((cache / "datasets").glob(".*")), "something half made was left"


def test_a_tar_beside_pictures_is_no_shard(tmp_path: Path, picture: bytes) -> None:
    (tmp_path / "a.png").write_bytes(picture)
    (tmp_path / "a.txt").write_text("beside")
    numbered(tmp_path / "copy.tar", range(2), picture)
    assert captions(tmp_path) == [("beside",)]


def test_check_reads_shards_and_names_what_is_broken(tmp_path: Path, picture: bytes) -> None:
    shard(
        tmp_path / "train-0.tar",
        {"a.png": picture, "a.txt": b"one", "cut.png": picture[:99], "cut.txt": b"\n"},
    )
    numbered(tmp_path / "val-0.tar", range(1), picture)
    report = check_dataset(tmp_path)
    assert [split.name for split in report.splits] == ["train", "val"]
    assert "cut.png" in str(report.splits[0].broken[0].path)
    assert len(report.near_duplicates) == 1
    result = CliRunner().invoke(app, ["data", "check", f"{tmp_path}/val-{{0..0}}.tar"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["data", "check", "nowhere://x.tar"])
    assert result.exit_code == 1
    assert "nowhere" in result.output


@pytest.mark.parametrize("embedded", [True, False])
def test_saved_hugging_face_datasets(tmp_path: Path, embedded: bool) -> None:
    library = pytest.importorskip("datasets")
    files = [photo(tmp_path / "files" / f"{n}.png", n) for n in range(4)]
    values = [{"bytes": f.read_bytes(), "path": None} if embedded else str(f) for f in files]
    texts = [["one", "two"], ["three"], ["four"], []]
    columns = {"pixels": library.Image(), "text": library.List(library.Value("string"))}
    table = library.Dataset.from_dict({"pixels": values, "text": texts}, library.Features(columns))
    table.save_to_disk(str(tmp_path / "one"))
    assert splits_of(tmp_path / "one") == []
    assert captions(tmp_path / "one") == [tuple(some) for some in texts]
    parts = library.DatasetDict({"train": table, "test": table.select([2])})
    parts.save_to_disk(str(tmp_path / "parts"))
    assert splits_of(tmp_path / "parts") == ["test", "train"]
    assert captions(tmp_path / "parts", "test") == [("four",)]
    (record,) = load_dataset(tmp_path / "parts", "test").records
    assert record.image.read_bytes() == files[2].read_bytes()


def test_odd_rows_of_hugging_face_datasets(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    content = {"bytes": photo(tmp_path / "a.png", 0).read_bytes(), "path": None}
    columns = {"image": library.Image(), "caption": library.Value("string")}
    rows = {"image": [content, None, content], "caption": ["one", "two", None]}
    library.Dataset.from_dict(rows, library.Features(columns)).save_to_disk(str(tmp_path / "d"))
    dataset = read_dataset(tmp_path / "d")
    assert [record.captions for record in dataset.records] == [("one",), ()]
    assert [entry.where.rpartition(", ")[2] for entry in dataset.skipped] == ["row 2"]
    assert (dataset.num_entries, dataset.num_used) == (3, 2)
    with pytest.raises(DataError, match="row 2: it has no picture"):
        load_dataset(tmp_path / "d")


def test_hugging_face_without_a_picture(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    library.Dataset.from_dict({"text": ["one"], "label": [1]}).save_to_disk(str(tmp_path / "x"))
    with pytest.raises(DataError, match=r"no column with a picture.*found text, label"):
        load_dataset(tmp_path / "x")
    (tmp_path / "x" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(tmp_path / "x")


@pytest.mark.parametrize("source", ["some-{0..1}.tar", "s3://some/where.tar", "hf:anyone/anything"])
def test_missing_packages_are_named(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xattn.datasets.shards.find_spec", lambda _: None)
    monkeypatch.setattr("xattn.datasets.hugging_face.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"xattn\[data\]"):
        load_dataset(source)
