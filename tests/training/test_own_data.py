"""Own captions as training takes them: divided, read, put into batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_own import (  # noqa: F401  fixtures
    NUM_PICTURES,
    TINY,
    Make,
    data_fixture,
    make_loop_fixture,
    places_fixture,
    prepared_fixture,
    start_fixture,
)
from xattn.errors import DataError
from xattn.training.data import kept_form, load_own, readable
from xattn.training.objective import Batches
from xattn.training.prepare import Places
from xattn.training.settings import Settings


def test_division_is_stable(data: Path, tmp_path: Path) -> None:
    whole = load_own(data, Settings(held_out=0.3))
    held = {record.image.name for record in whole.held_out}
    assert len(held) == round(0.3 * NUM_PICTURES)
    assert not held & {record.image.name for record in whole.train}
    # Elsewhere, and with less to hold out, the same pictures are among the first to be held out.
    for path in data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    fewer = load_own(tmp_path, Settings(held_out=0.1))
    assert {record.image.name for record in fewer.held_out} < held


def test_splits_are_used_and_what_cannot_be_is_told(data: Path, tmp_path: Path) -> None:
    for split, numbers in (("train", range(12)), ("val", range(12, 16)), ("test", range(16, 19))):
        (tmp_path / split).mkdir()
        for number in numbers:
            for suffix in ("png", "txt"):
                name = f"{number}.{suffix}"
                (tmp_path / split / name).write_bytes((data / name).read_bytes())
    (tmp_path / "train" / "3.txt").unlink()
    found = load_own(tmp_path, Settings())
    assert (len(found.train), len(found.held_out)) == (11, 4)
    assert [(s.path.name, s.reason) for s in found.skipped] == [("3.png", "it has no caption")]
    assert len(load_own(tmp_path, Settings(), "test").held_out) == 3
    with pytest.raises(DataError, match="'dev' among them"):
        load_own(tmp_path, Settings(), "dev")
    (tmp_path / "train" / "5.png").write_bytes(b"no picture")
    kept, broken = readable(found.train)
    assert (len(kept), [s.path.name for s in broken]) == (10, ["5.png"])
    for number in range(6):
        (tmp_path / "train" / f"{number}.txt").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"6 captioned pictures .* data check"):
        load_own(tmp_path, Settings())


def test_rows_that_cannot_be_read_are_left_out_and_named(data: Path, tmp_path: Path) -> None:
    rows = ["image,caption"]
    for number in range(NUM_PICTURES):
        (tmp_path / f"{number}.png").write_bytes((data / f"{number}.png").read_bytes())
        rows.append(f"{number}.png" if number == 3 else f"{number}.png,a picture of {number}")
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    own = load_own(tmp_path, Settings())
    assert len(own.train) + len(own.held_out) == NUM_PICTURES - 1
    (skipped,) = own.skipped
    assert "row 4 (line 5)" in str(skipped.path)


def test_batches(places: Places) -> None:
    own = load_own(places.data, TINY)
    pictures = kept_form(own.train, "train").pictures
    batches = Batches(pictures, TINY, 1)
    seen = [i for index in range(batches.per_epoch) for i in batches.members(0, index)]
    assert sorted(seen) == list(range(len(pictures)))
    assert batches.members(0, 0) == Batches(pictures, TINY, 1).members(0, 0)
    assert batches.members(0, 0) != batches.members(1, 0)
    # Towers in training see new crops in every epoch, the same in every run.
    live = [Batches(pictures, TINY, 4, live=True).batch(epoch, 0).views for epoch in (0, 1, 0)]
    assert max(live[0]) > 4
    assert live[0] == live[2] != live[1]


def test_shared_captions_are_right_for_all(make_loop: Make) -> None:
    batches = make_loop().batches
    batch = batches.batch(0, 0)
    texts = batch.positives.sum(0)
    own = [batches.pictures[i].captions for i in batches.members(0, 0)]
    assert len(set(batch.captions)) == len(batch.captions)
    assert batch.positives.sum(1).tolist() == [2] * len(own)
    colors = [captions[0] for captions in own]
    assert sorted(texts.tolist()) == sorted([1] * len(own) + [colors.count(c) for c in set(colors)])
