"""Readers of tables and captions beside pictures, and what `xattn data check` finds."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from xattn.cli import app
from xattn.datasets import load_dataset, splits_of
from xattn.datasets.check import check_dataset, difference_hash, near_duplicates
from xattn.errors import DataError, MissingExtra


def photo(path: Path, seed: int, size: tuple[int, int] = (70, 50)) -> Path:
    """Smooth random shades: each seed looks different, at any size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shades = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(shades).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


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


@pytest.mark.skipif(find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_its_package(tmp_path: Path) -> None:
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
def test_bad_tables_are_told(tmp_path: Path, content: str, message: str) -> None:
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


# Check


def test_hash_survives_another_size_and_tells_pictures_apart(tmp_path: Path) -> None:
    large = Image.open(photo(tmp_path / "a.png", 3, (700, 500)))
    small = Image.open(photo(tmp_path / "b.png", 3, (70, 50)))
    other = Image.open(photo(tmp_path / "c.png", 4))
    flat = Image.new("RGB", (30, 20), "white")
    paths = [Path("large"), Path("other"), Path("flat")]
    hashes = np.stack([difference_hash(picture) for picture in (large, other, flat)])
    found = list(near_duplicates(paths, hashes, [Path("small"), Path("plain")], hashes[[0, 2]]))
    assert [(pair.first.name, pair.second.name) for pair in found] == [("large", "small")]
    assert np.unpackbits(difference_hash(large) ^ difference_hash(small)).sum() <= 3


def test_near_duplicates_are_those_of_a_plain_comparison() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (60, 8), dtype=np.uint8)
    for row in range(30):  # differ in 0 … 5 bits from those 30 rows on
        hashes[row + 30] = hashes[row]
        for bit in rng.choice(64, row % 6, replace=False):
            hashes[row + 30, bit // 8] ^= 1 << (bit % 8)
    paths = [Path(str(n)) for n in range(60)]
    expected = [
        (str(a), str(b), int(bits))
        for a in range(60)
        for b in range(a + 1, 60)
        if (bits := np.unpackbits(hashes[a] ^ hashes[b]).sum()) <= 3
    ]
    assert len(expected) >= 20
    found = [(p.first.name, p.second.name, p.bits) for p in near_duplicates(paths, hashes, paths, hashes)]
    assert found == expected


def test_pictures_that_look_the_same_in_one_folder_are_told(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        photo(tmp_path / f"{name}.png", seed, (70 + seed, 50))
        (tmp_path / f"{name}.txt").write_text(name)
    report = check_dataset(tmp_path)
    assert [(p.first.name, p.second.name) for p in report.near_duplicates] == [("a.png", "c.png")]
    assert report.is_usable, "that is worth knowing, but no fault"
    assert "one may be trained on" in CliRunner().invoke(app, ["data", "check", str(tmp_path)]).output


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    rows = ["image,caption,split"]
    for number in range(6):
        photo(tmp_path / f"{number}.png", number)
        rows.append(f"{number}.png,caption {number // 2},{'train' if number < 4 else 'val'}")
    photo(tmp_path / "again.png", 1, (140, 100))
    (tmp_path / "broken.png").write_bytes((tmp_path / "2.png").read_bytes()[:200])
    rows += ["again.png,the same,val", "broken.png,cut short,val", "gone.png,nowhere,train", "5.png, ,val"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    return tmp_path


def test_check_finds_what_is_wrong(faulty: Path) -> None:
    report = check_dataset(faulty)
    train, val = report.splits
    assert (train.name, train.num_pictures, train.num_captions) == ("train", 5, 5)
    assert [path.name for path in train.missing] == ["gone.png"]
    assert train.shared_captions == [("caption 0", 2), ("caption 1", 2)]
    assert (val.num_pictures, val.num_blank) == (4, 1)
    assert [skipped.path.name for skipped in val.broken] == ["broken.png"]
    assert [(p.first.name, p.second.name) for p in report.near_duplicates] == [("1.png", "again.png")]
    assert not report.is_usable


def test_check_command(faulty: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    result = CliRunner().invoke(app, ["data", "check", str(faulty)])
    assert result.exit_code == 1
    for text in ("train: 5 pictures, 5 captions", "gone.png", "broken.png", "again.png", "caption 0"):
        assert text in result.output
    good = tmp_path_factory.mktemp("good")
    photo(good / "a.png", 0)
    (good / "a.txt").write_text("one")
    result = CliRunner().invoke(app, ["data", "check", str(good)])
    assert result.exit_code == 0, result.output
    assert "nothing is wrong" in result.output
