"""The index directory: what is written is read, of any shape and name, and space is reclaimed."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.stores import GRIDS, MODEL, check, content, file, fill, shards
from xattn.store import CATALOGUE, Store

# --- what is written is read ------------------------------------------------------------------------


def test_grids_of_any_shape_coexist_and_survive_reopening(tmp_path: Path) -> None:
    with_one = Store(tmp_path / "deep" / "index", MODEL)
    fill(with_one, range(6))
    assert check(with_one) == [0, 1, 2, 3, 4, 5]
    with_one.close()
    assert check(Store(tmp_path / "deep" / "index", MODEL)) == [0, 1, 2, 3, 4, 5]


def test_shards_are_plain_npy_files(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL)
    fill(store, [0])
    fill(store, [1])
    array = np.load(tmp_path / "regions-00001.npy", mmap_mode="r")
    assert array.dtype == np.float16
    np.testing.assert_array_equal(array, np.concatenate([content(0).regions, content(1).regions]))


def test_a_shard_that_is_full_is_followed_by_another(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL, rows_per_shard=50)
    fill(store, [0, 1, 2])  # 35 + 12 rows, then 9 more
    fill(store, [4])
    assert store.catalogue.shards() == {1: 47, 2: 44}
    assert check(store) == [0, 1, 2, 4]


def test_a_picture_larger_than_a_shard_gets_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL, rows_per_shard=10)
    fill(store, [0, 1])
    assert store.catalogue.shards() == {1: 35, 2: 12}
    assert check(store) == [0, 1]


def test_unknown_ids_are_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL)
    fill(store, [3, 1])
    contents, grid = store.read([99, 2, 1, -5])
    assert [c.content_id for c in contents] == [1, 2]
    assert grid.sizes == (GRIDS[3], GRIDS[1])
    contents, grid = store.read([])
    assert contents == []
    assert len(grid) == 0


def test_a_reader_sees_what_another_connection_appends_to_a_mapped_shard(tmp_path: Path) -> None:
    reader, writer = Store(tmp_path, MODEL), Store(tmp_path, MODEL)
    fill(writer, [0])
    assert check(reader) == [0]
    before = reader.catalogue.version(), writer.catalogue.version()
    assert (reader.catalogue.version(), writer.catalogue.version()) == before
    fill(writer, [1])
    assert check(reader) == [0, 1]
    assert reader.catalogue.version() != before[0]
    assert writer.catalogue.version() != before[1]


# --- files ------------------------------------------------------------------------------------------


def test_one_content_may_have_many_files_and_ids_are_never_reused(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL)
    with store.writing():
        store.write([content(1)], [file(1), file(1, "copy")])
        first, copy = store.catalogue.pictures_of([1])
        assert (first.path.name, copy.path.name) == ("1.jpg", "copy.jpg")
        store.forget([copy.path])
        store.write([], [file(1, "another copy")])
    assert [p.picture_id for p in store.catalogue.pictures_of([1])] == [1, 3]
    with store.writing():
        store.forget(store.catalogue.paths_at(Path("/photos")))
        store.reclaim()
        store.write([content(2)], [file(2)])
    assert store.catalogue.content_ids().tolist() == [2]


def test_a_moved_file_keeps_its_id_and_replaces_what_was_there(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL)
    fill(store, [1, 2])
    with store.writing():
        store.write([], [file(1, "2")._replace(moved_from=file(1).path)])
    assert store.catalogue.pictures_of([1, 2]) == [(1, Path("/photos/2.jpg"), 1)]


@pytest.mark.parametrize("name", ["it's", 'quo"te', "漢字 ö", "new\nline", "100%_", os.fsdecode(b"\xff")])
def test_any_name_a_file_system_allows(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path, MODEL)
    new = file(1, name)
    with store.writing():
        store.write([content(1)], [new])
    assert store.catalogue.file(new.path) == (new.content_hash, new.state)
    assert store.catalogue.paths_at(Path("/photos")) == [new.path]
    assert store.catalogue.paths_at(new.path) == [new.path]


def test_paths_below_a_folder_are_not_those_of_its_namesakes(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL)
    names = ["/a/b/1", "/a/b/c/2", "/a/b-/3", "/a/b0/4", "/a/bb", "/a/b"]
    with store.writing():
        store.write([content(1)], [file(1)._replace(path=Path(name)) for name in names])
    paths = store.catalogue.paths_at
    assert paths(Path("/a/b")) == [Path("/a/b"), Path("/a/b/1"), Path("/a/b/c/2")]
    assert paths(Path("/a/b/c")) == [Path("/a/b/c/2")]
    assert len(paths(Path("/"))) == 6
    assert paths(Path("/a/x")) == []


# --- reclaiming -------------------------------------------------------------------------------------


def test_a_shard_is_compacted_only_when_more_than_half_of_it_is_dead(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL)
    fill(store, [1, 5, 9, 13])  # 12 rows each
    for number, expected in [(1, {1: 48}), (9, {1: 48}), (5, {2: 12})]:
        with store.writing():
            store.forget([file(number).path])
            store.reclaim()
        assert store.catalogue.shards() == expected
    assert check(store) == [13]
    assert shards(tmp_path) == ["regions-00002.npy"]


def test_compaction_of_an_old_shard_appends_to_the_newest(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL, rows_per_shard=36)
    fill(store, [1, 5, 9, 13])
    reader = Store(tmp_path, MODEL)
    assert check(reader) == [1, 5, 9, 13]
    with store.writing():
        store.forget([file(1).path, file(5).path])
        store.reclaim()
    assert store.catalogue.shards() == {2: 24}
    assert check(store) == check(reader) == [9, 13]


def test_an_emptied_index_leaves_no_regions_and_can_be_filled_again(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL)
    fill(store, [1, 2])
    with store.writing():
        store.forget([file(1).path, file(2).path])
        store.reclaim()
    assert shards(tmp_path) == []
    fill(store, [3])
    assert check(store) == [3]


def test_reclaiming_keeps_content_that_another_file_still_has(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL)
    with store.writing():
        store.write([content(1)], [file(1), file(1, "copy")])
        store.forget([file(1, "copy").path])
        store.reclaim()
    assert check(store) == [1]


def test_an_index_of_the_first_format_opens_with_all_that_it_holds(tmp_path: Path) -> None:
    """Its files are read once more, since their inodes and ctimes are unknown."""
    store = Store(tmp_path, MODEL)
    fill(store, range(3))
    store.close()
    with closing(sqlite3.connect(tmp_path / CATALOGUE)) as db:
        for column in ("ctime_ns", "inode"):
            db.execute(f"ALTER TABLE pictures DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 1")
        db.commit()
    store = Store(tmp_path, MODEL)
    assert check(store) == [0, 1, 2]
    known = store.catalogue.file(file(1).path)
    assert known is not None
    assert (known[1].ctime_ns, known[1].inode) == (0, 0)
