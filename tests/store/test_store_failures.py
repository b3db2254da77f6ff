"""The index directory after crashes, with a second writer, and what is no index or a damaged one."""

import multiprocessing
import os
import signal
import sqlite3
import sys
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType

import pytest

from tests.stores import MODEL, check, file, fill, shards
from xattn.errors import IndexBusy, IndexMismatch, StoreError
from xattn.store import CATALOGUE, Store
from xattn.store.catalogue import Catalogue
from xattn.store.schema import FORMAT_VERSION

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
    watched = {"store.py", "catalogue.py", "schema.py"}

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
    with pytest.raises(
        IndexMismatch, match=rf"format is 99, this version reads up to {FORMAT_VERSION}\. Upgrade"
    ):
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
