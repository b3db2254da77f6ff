"""The index directory: what is written is read, whatever happens in between."""

import multiprocessing
import os
import signal
import sqlite3
import sys
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from xattn.catalogue import Catalogue, FileState, Identity
from xattn.errors import IndexBusy, IndexMismatch, StoreError
from xattn.store import CATALOGUE, NewContent, NewFile, Store

DIM = 6
MODEL = Identity("0123456789abcdef", "painter", DIM)
GRIDS = [(5, 7), (3, 4), (1, 9), (8, 2)]


def content(number: int) -> NewContent:
    """Content that can be told from every other by all its values."""
    grid = GRIDS[number % len(GRIDS)]
    rng = np.random.default_rng(number)
    regions = rng.standard_normal((grid[0] * grid[1], DIM)).astype(np.float16)
    pooled = rng.standard_normal(DIM).astype(np.float32)
    return NewContent(number.to_bytes(16, "big"), (100 + number, 200 + number), grid, regions, pooled)


def file(number: int, name: str | None = None) -> NewFile:
    return NewFile(Path(f"/photos/{name or number}.jpg"), number.to_bytes(16, "big"), FileState(number, 5))


def fill(store: Store, numbers: range | list[int]) -> None:
    with store.writing():
        store.write([content(n) for n in numbers], [file(n) for n in numbers])


def check(store: Store) -> list[int]:
    """Verifies every stored value; returns the numbers that are stored."""
    ids = store.catalogue.content_ids().tolist()
    contents, grid = store.read(ids)
    assert [c.content_id for c in contents] == ids
    numbers = []
    for i, found in enumerate(contents):
        expected = content(found.size[0] - 100)
        assert (found.size, found.grid) == (expected.size, expected.grid)
        assert grid[i].sizes == (expected.grid,)
        np.testing.assert_array_equal(grid[i].regions[0].numpy(), expected.regions.astype(np.float32))
        np.testing.assert_array_equal(grid.pooled[i].numpy(), expected.pooled)
        assert not grid.regions[i, expected.grid[0] * expected.grid[1] :].any()
        numbers.append(found.size[0] - 100)
    for picture in store.catalogue.pictures_of(ids):
        assert picture.path.stem == str(numbers[ids.index(picture.content_id)])
    return numbers


def shards(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("regions-*"))


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


# --- crashes ----------------------------------------------------------------------------------------


def test_what_fails_between_rows_and_commit_leaves_nothing_but_overwritten_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, MODEL)
    fill(store, [0])

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Catalogue, "insert_content", fail)
        with pytest.raises(OSError, match="disk is full"):
            fill(store, [2, 3, 4])
    orphaned = (tmp_path / "regions-00001.npy").stat().st_size
    assert check(store) == [0]
    assert store.catalogue.num_pictures() == 1
    fill(store, [5])
    assert check(store) == check(Store(tmp_path, MODEL)) == [0, 5]
    assert (tmp_path / "regions-00001.npy").stat().st_size == orphaned


def test_the_next_writer_deletes_files_that_no_commit_named(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL)
    fill(store, [0])
    (tmp_path / "regions-00007.npy").write_bytes(b"left behind")
    (tmp_path / "regions-notes.npy").write_bytes(b"not ours")
    assert check(Store(tmp_path, MODEL)) == [0]
    fill(store, [1])
    assert shards(tmp_path) == ["regions-00001.npy", "regions-notes.npy"]


def churn(directory: Path, kill_at: int | None, counted: Connection | None = None) -> None:
    """Adds, removes and compacts; kills itself at the given call into or out of the store's functions."""
    calls = 0
    watched = {"store.py", "catalogue.py"}

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        if Path(frame.f_code.co_filename).name in watched:
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    store = Store(directory, MODEL, rows_per_shard=60)
    fill(store, [0, 1, 2, 3])
    fill(store, [4, 5])
    with store.writing():
        store.forget([file(n).path for n in (0, 1, 4)])
        store.reclaim()
    fill(store, [6])
    store.close()
    sys.setprofile(None)
    if counted is not None:
        counted.send(calls)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    return context


def test_killed_at_any_call_the_index_opens_answers_and_goes_on(
    tmp_path: Path, processes: ForkServerContext
) -> None:
    receiver, sender = processes.Pipe(duplex=False)
    whole = processes.Process(target=churn, args=(tmp_path / "whole", None, sender))
    whole.start()
    total = receiver.recv()
    whole.join()
    assert check(Store(tmp_path / "whole", MODEL)) == [2, 3, 5, 6]
    states = set()
    for kill_at in range(1, total, total // 30):
        directory = tmp_path / str(kill_at)
        process = processes.Process(target=churn, args=(directory, kill_at))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        store = Store(directory, MODEL, rows_per_shard=60)
        found = check(store)
        states.add(tuple(found))
        assert found in ([], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [2, 3, 5], [2, 3, 5, 6])
        wanted = [0, 1, 2, 3, 4, 5, 6, 7] if store.catalogue.file(file(0).path) else [2, 3, 5, 6, 7]
        fill(store, [7])
        with store.writing():
            store.reclaim()
        assert check(store) == [n for n in wanted if n in [*found, 7]]
        assert shards(directory) == [f"regions-{number:05d}.npy" for number in store.catalogue.shards()]
        store.close()
    assert len(states) == 5


# --- one writer -------------------------------------------------------------------------------------


def hold(directory: Path, connection: Connection) -> None:
    with Store(directory, MODEL).writing():
        connection.send("writing")
        connection.recv()


def test_a_second_writer_is_told_so_and_readers_are_not_disturbed(
    tmp_path: Path, processes: ForkServerContext
) -> None:
    store = Store(tmp_path, MODEL)
    fill(store, [0])
    ours, theirs = processes.Pipe()
    process = processes.Process(target=hold, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == "writing"
    with pytest.raises(IndexBusy, match="wait for it to finish"), store.writing():
        pass
    assert check(store) == [0]
    process.kill()
    process.join()
    fill(store, [1])  # the system has released the lock
    assert check(store) == [0, 1]


def test_a_second_writer_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL)
    with store.writing():
        with pytest.raises(IndexBusy), Store(tmp_path, MODEL).writing():
            pass
        with pytest.raises(IndexBusy), store.writing():
            pass
    fill(store, [0])


# --- what is refused --------------------------------------------------------------------------------


def test_another_model_is_refused_with_both_names_and_the_way_out(tmp_path: Path) -> None:
    fill(Store(tmp_path, MODEL), [0])
    other = MODEL._replace(fingerprint="fedcba9876543210", name="sculptor")
    with pytest.raises(IndexMismatch) as caught:
        Store(tmp_path, other)
    for part in ("'painter'", "'sculptor'", "0123456789ab", "fedcba987654", f"delete {tmp_path}"):
        assert part in str(caught.value)
    assert check(Store(tmp_path, MODEL._replace(name="renamed"))) == [0]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, MODEL).close()
    with sqlite3.connect(tmp_path / CATALOGUE) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(IndexMismatch, match=r"format is 99, this version reads up to 1\. Upgrade"):
        Store(tmp_path, MODEL)


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"not an index.*'thesis\.tex'"):
        Store(tmp_path, MODEL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_instead_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index").touch()
    with pytest.raises(StoreError, match="cannot be used as index directory"):
        Store(tmp_path / "index", MODEL)


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / CATALOGUE) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    before = (tmp_path / CATALOGUE).read_bytes()
    with pytest.raises(StoreError, match="not one that xattn wrote"):
        Store(tmp_path, MODEL)
    assert (tmp_path / CATALOGUE).read_bytes() == before


def test_an_empty_catalogue_is_a_new_index(tmp_path: Path) -> None:
    (tmp_path / CATALOGUE).touch()  # killed before its first commit
    fill(Store(tmp_path, MODEL), [0])
    assert check(Store(tmp_path, MODEL)) == [0]


def test_lost_and_damaged_catalogues_are_reported_with_the_way_out(tmp_path: Path) -> None:
    fill(Store(tmp_path, MODEL), [0])
    whole = (tmp_path / CATALOGUE).read_bytes()
    (tmp_path / CATALOGUE).write_bytes(b"not a database" * 500)
    with pytest.raises(StoreError, match=r"is damaged: .*index the pictures again"):
        Store(tmp_path, MODEL)
    (tmp_path / CATALOGUE).write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))
    with pytest.raises(StoreError, match=r"is damaged: .*index the pictures again"):
        check(Store(tmp_path, MODEL))
    (tmp_path / CATALOGUE).unlink()
    with pytest.raises(StoreError, match=r"holds regions but no catalogue\.sqlite"):
        Store(tmp_path, MODEL)


def test_a_missing_or_short_shard_is_named(tmp_path: Path) -> None:
    fill(Store(tmp_path, MODEL), [0])
    shard = tmp_path / "regions-00001.npy"
    with shard.open("r+b") as opened:
        opened.truncate(200)
    with pytest.raises(StoreError, match=r"regions-00001\.npy is cut short: expected 548 bytes, found 200"):
        Store(tmp_path, MODEL)
    shard.unlink()
    with pytest.raises(StoreError, match=r"regions-00001\.npy is missing.*index the pictures again"):
        Store(tmp_path, MODEL)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path, MODEL)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.catalogue.num_pictures()
