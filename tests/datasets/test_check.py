"""The check of pictures: missing, broken, without captions, and those that look the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.datasets.photos import photo
from xattn.cli import app
from xattn.datasets.check import check_dataset, difference_hash, near_duplicates


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


def test_pictures_that_look_the_same_in_one_folder_are_listed(tmp_path: Path) -> None:
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
