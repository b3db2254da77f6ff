"""Deletion is told from absence, changes are noticed whatever the dates say, and places have many names."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.color_model import paint
from tests.engine_photos import engine_fixture, model_fixture, names, photos_fixture  # noqa: F401  fixtures
from xattn.engine import Engine
from xattn.engine.absence import MANY, deleted_and_absent


def _empty(folder: Path) -> None:
    folder.rename(folder.with_name("away"))
    folder.mkdir()


def _gone(folder: Path) -> None:
    folder.rename(folder.with_name("away"))


def _dead_link(folder: Path) -> None:
    folder.rename(folder.with_name("away"))
    folder.symlink_to(folder.with_name("no such folder"))


@pytest.mark.parametrize("disappear", [_empty, _gone, _dead_link])
@pytest.mark.parametrize("root", ["", "trip"])
def test_a_folder_out_of_reach_keeps_its_pictures_until_it_is_back(
    engine: Engine, photos: Path, tmp_path: Path, disappear: Callable[[Path], None], root: str
) -> None:
    engine.add(photos)
    trip, away = photos / "trip", photos / "away"
    disappear(trip)
    shutil.move(away, tmp_path / "elsewhere")
    if trip.is_dir() or not root:
        report = engine.add(photos / root)
        assert (report.removed, report.absent) == ([], [trip / "c.png"])
    assert len(engine) == 3
    if trip.is_symlink():
        trip.unlink()
    elif trip.is_dir():
        trip.rmdir()
    shutil.move(tmp_path / "elsewhere", trip)
    report = engine.add(photos)
    assert names(report.unchanged) == ["a.png", "b.png", "c.png"]
    assert [report.added, report.updated, report.removed, report.absent] == [[]] * 4


def test_absent_pictures_are_removed_on_request(engine: Engine, photos: Path) -> None:
    engine.add(photos)
    shutil.rmtree(photos / "trip")
    report = engine.add(photos, prune=True)
    assert (names(report.removed), report.absent, len(engine)) == (["c.png"], [], 2)


@pytest.mark.parametrize(
    ("held", "lost", "is_deletion"),
    [
        (2, 1, True),
        (MANY + 1, MANY, False),
        (MANY, MANY - 1, True),
        (2 * MANY, MANY, True),
        (2 * MANY - 1, MANY, False),
    ],
)
def test_the_loss_of_most_of_many_pictures_is_no_deletion(held: int, lost: int, is_deletion: bool) -> None:
    known = [Path(f"/photos/{i}.jpg") for i in range(held)]
    deleted, absent = deleted_and_absent(known, known[lost:], known[:lost])
    assert (deleted, absent) == ((known[:lost], []) if is_deletion else ([], known[:lost]))


def _in_place(path: Path) -> None:
    paint((5, 7), "pink").save(path)


def _replaced(path: Path) -> None:
    paint((5, 7), "pink").save(path.with_suffix(".tmp"), path.suffix[1:])
    path.with_suffix(".tmp").replace(path)


@pytest.mark.parametrize("change", [_in_place, _replaced])
def test_new_content_with_the_old_size_and_date_is_noticed(
    engine: Engine, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "photos.d" / "a.bmp"
    path.parent.mkdir()
    paint((5, 7), "red").save(path)
    engine.add(path)
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert names(engine.add(path).updated) == ["a.bmp"]
    assert engine.search("pink", 1)[0].whole.found


def test_reread_hashes_every_file_and_encodes_none_anew(
    engine: Engine, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.add(photos)
    read: list[str] = []
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r": read.append(self.name) or opened(self, mode))
    monkeypatch.setattr(engine.model, "encode_frames", lambda _: pytest.fail("it was encoded again"))
    assert names(engine.add(photos, reread=True).unchanged) == ["a.png", "b.png", "c.png"]
    assert sorted(name for name in read if name.endswith(".png")) == ["a.png", "b.png", "c.png"]


def test_a_date_beyond_2262_is_a_date(engine: Engine, photos: Path) -> None:
    try:
        os.utime(photos / "a.png", (2**34, 2**34))
    except OSError:
        pytest.skip("the file system has no such dates")
    engine.add(photos)
    assert names(engine.add(photos).unchanged) == ["a.png", "b.png", "c.png"]


def test_pictures_leave_the_index_when_their_folder_says_nomedia(engine: Engine, photos: Path) -> None:
    private = photos / "private"
    private.mkdir()
    (photos / "a.png").rename(private / "a.png")
    engine.add(photos)
    (private / ".nomedia").touch()
    assert names(engine.add(photos).removed) == ["a.png"]
    assert names(engine.add(private).added) == ["a.png"]  # named, so it is wanted


# --- places -----------------------------------------------------------------------------------------


@pytest.fixture
def linked(engine: Engine, photos: Path, tmp_path: Path) -> Path:
    """A root with a link to `photos`, indexed."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(photos)
    engine.add(root)
    return root


@pytest.mark.parametrize("dead", [False, True])
def test_every_path_that_a_search_returns_can_be_removed(
    engine: Engine, linked: Path, photos: Path, dead: bool
) -> None:
    hits = engine.search("red")
    assert len(hits) == 3
    if dead:
        photos.rename(photos.with_name("away"))
    for hit in hits:
        assert engine.remove(hit.path) == [hit.path]
    assert len(engine) == 0


@pytest.mark.parametrize("name", ["root/link", "root/link/", "root//link/../link", "photos", "root", "."])
def test_a_linked_folder_is_removed_by_any_of_its_names(
    engine: Engine, linked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(engine.remove(name)) == 3
    assert len(engine) == 0


def test_copies_take_one_place_and_the_path_shown_is_there(engine: Engine, photos: Path) -> None:
    for i in range(3):
        shutil.copy(photos / "a.png", photos / "trip" / f"copy {i}.png")
    os.link(photos / "a.png", photos / "trip" / "hard.png")
    engine.add(photos)
    hits = engine.search("red", k=3)
    assert names(hit.path for hit in hits) == ["a.png", "b.png", "c.png"]
    assert names(hits[0].copies) == ["copy 0.png", "copy 1.png", "copy 2.png", "hard.png"]
    (photos / "a.png").unlink()
    first = engine.search("red", k=1)[0]
    assert first.path == photos / "trip" / "copy 0.png"
    assert photos / "a.png" in first.copies
