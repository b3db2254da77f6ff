"""What an index directory holds, and the order in which it is written.

    catalogue.sqlite     everything but the regions (`xattn.store.catalogue`)
    regions-NNNNN.npy    float16 [rows, D]; a picture is a run of H·W rows, so grids of any size coexist
    writer.lock          held by the one process that writes

Shards are append-only: rows are written and synced to disk first, then the catalogue commit names them.
Killed at any moment, a writer leaves rows or files that no catalogue row names; the next writer
overwrites the rows and deletes the files. Removal leaves dead rows; a shard with more than half of them
is compacted: its live rows are appended elsewhere, the catalogue commits, then the file is unlinked.
Shard numbers are never reused, so what a reader has mapped stays true.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16

from xattn.errors import IndexBusy, StoreError
from xattn.files import sync_directory
from xattn.store.catalogue import Catalogue
from xattn.store.schema import Content, FileState, Identity
from xattn.types import RegionGrid, Size

logger = logging.getLogger(__name__)

CATALOGUE = "catalogue.sqlite"
LOCK = "writer.lock"
_SHARD = re.compile(r"regions-(\d{5,})\.npy")
HEADER_BYTES = 128
ROWS_PER_SHARD = 1 << 18
"""256 k rows: 128 MiB at D = 256."""


class NewContent(NamedTuple):
    """An encoded picture on its way into the store. `size` is that of the upright original."""

    content_hash: bytes
    size: Size
    grid: Size
    regions: Float16[np.ndarray, "R D"]
    pooled: Float[np.ndarray, " D"]


class NewFile(NamedTuple):
    """A file whose content is stored, or is being stored with it. It keeps the id of `moved_from`."""

    path: Path
    content_hash: bytes
    state: FileState
    moved_from: Path | None = None


class Store:
    """An index directory, created when absent. Any number may be open; one at a time is `writing`.

    identity: of the model that reads or writes; None: of the index, whatever it is, which must exist.
    rows_per_shard: where the next shard is begun. former_fingerprint: as of `Catalogue`.
    Raises StoreError if `directory` holds something else, lacks a shard or is damaged, IndexMismatch if
    it belongs to another model or a newer xattn.
    """

    def __init__(
        self,
        directory: Path,
        identity: Identity | None,
        *,
        rows_per_shard: int = ROWS_PER_SHARD,
        former_fingerprint: Callable[[], str] | None = None,
    ) -> None:
        self.directory = directory
        self._rows_per_shard = rows_per_shard
        self._mapped: dict[int, Float16[np.ndarray, "rows D"]] = {}
        _prepare(directory, create=identity is not None)
        self.catalogue = Catalogue(directory / CATALOGUE, identity, former_fingerprint)
        self._dim = self.catalogue.identity.dim
        try:
            with self.catalogue.snapshot():
                for number, rows in self.catalogue.shards().items():
                    self._check_shard(number, rows)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.catalogue.close()
        self._mapped.clear()

    def num_bytes(self) -> int:
        """Size of all files of the index."""
        total = 0
        for path in self.directory.iterdir():
            if path.name.startswith(CATALOGUE) or _SHARD.fullmatch(path.name):
                with suppress(FileNotFoundError):  # a writer may just have deleted it
                    total += path.stat().st_size
        return total

    # --- reading ------------------------------------------------------------------------------------

    def read(self, content_ids: Iterable[int]) -> tuple[list[Content], RegionGrid]:
        """Those of the ids that are stored, ascending, and their float32 regions on the CPU."""
        with self.catalogue.snapshot():  # no compaction between the look-up and the mapping
            contents = self.catalogue.contents(content_ids)
            runs = [self._run(content) for content in contents]
        longest = max((len(run) for run in runs), default=0)
        regions = np.zeros((len(runs), longest, self._dim), np.float16)
        for padded, run in zip(regions, runs, strict=True):
            padded[: len(run)] = run
        pooled = np.array([content.pooled for content in contents], np.float32).reshape(-1, self._dim)
        sizes = tuple(content.grid for content in contents)
        return contents, RegionGrid(torch.from_numpy(regions).float(), torch.from_numpy(pooled), sizes)

    def _run(self, content: Content) -> Float16[np.ndarray, "R D"]:
        end = content.first_row + content.num_rows
        shard = self._mapped.get(content.shard)
        if shard is None or len(shard) < end:
            self._check_shard(content.shard, end)
            path = self._shard_path(content.shard)
            rows = (path.stat().st_size - HEADER_BYTES) // (2 * self._dim)
            shape = (rows, self._dim)
            shard = np.asarray(np.memmap(path, "<f2", mode="r", offset=HEADER_BYTES, shape=shape))
            self._mapped[content.shard] = shard
        return shard[content.first_row : end]

    def _shard_path(self, number: int) -> Path:
        return self.directory / f"regions-{number:05d}.npy"

    def _check_shard(self, number: int, rows: int) -> None:
        path = self._shard_path(number)
        expected = HEADER_BYTES + rows * self._dim * 2
        found = path.stat().st_size if path.is_file() else None
        if found is None or found < expected:
            finding = (
                "is missing" if found is None else f"is cut short: expected {expected} bytes, found {found}"
            )
            raise StoreError(
                f"{path} {finding}. Restore it from a copy, or delete the directory {self.directory} "
                "and index the pictures again."
            )

    # --- writing ------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the right to write; the system releases it when the process dies. Not re-entrant.

        Raises IndexBusy at once if someone else holds it. The lock is SQLite's own, on an empty
        database: it works on every system, and between threads as between processes.
        """
        with closing(self._locked()):
            self._delete_strays()
            yield

    def _locked(self) -> sqlite3.Connection:
        path = self.directory / LOCK
        lock: sqlite3.Connection | None = None
        try:
            lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            if lock is not None:
                lock.close()
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise IndexBusy(
                    f"Another process is writing to {self.directory}. Searching works meanwhile; "
                    "wait for it to finish, or stop it, and try again."
                ) from error
            raise StoreError(f"{path} cannot be locked: {error}.") from error
        return lock

    def write(self, contents: Sequence[NewContent], files: Sequence[NewFile]) -> None:
        """Stores contents and the files that have them, all or nothing. Only while `writing`."""
        with self.catalogue.transaction():
            places = self._append([content.regions for content in contents])
            for content, place in zip(contents, places, strict=True):
                self.catalogue.insert_content(
                    content.content_hash, content.size, content.grid, place, content.pooled
                )
            for file in files:
                if file.moved_from is not None:
                    self.catalogue.move_file(file.moved_from, file.path)
                self.catalogue.put_file(file.path, file.content_hash, file.state)

    def forget(self, paths: Iterable[Path]) -> None:
        """Removes files from the catalogue. Only while `writing`."""
        with self.catalogue.transaction():
            for path in paths:
                self.catalogue.delete_file(path)

    def reclaim(self) -> None:
        """Deletes contents that no file has, and compacts shards that are mostly dead rows.
        Only while `writing`."""
        with self.catalogue.transaction():
            self.catalogue.delete_unused_contents()
        live = self.catalogue.live_rows()
        sparse = [n for n, rows in self.catalogue.shards().items() if 2 * live[n] < rows]
        for number in sparse:
            self._compact(number)

    def _compact(self, number: int) -> None:
        with self.catalogue.transaction():
            contents = self.catalogue.contents_of_shard(number)
            places = self._append([self._run(content) for content in contents], but_not_to=number)
            for content, place in zip(contents, places, strict=True):
                self.catalogue.move_content(content.content_id, place)
            self.catalogue.delete_shard(number)
        self._mapped.pop(number, None)
        self._unlink(self._shard_path(number))

    def _append(
        self, runs: Sequence[Float16[np.ndarray, "_R D"]], but_not_to: int | None = None
    ) -> list[tuple[int, int]]:
        """Writes runs of rows and syncs them to disk; returns (shard, first row) of each."""
        shards = self.catalogue.shards()
        number, end = max(shards.items(), default=(None, 0))
        if number == but_not_to:
            number = None
        begins: dict[int, int] = {}
        pending: dict[int, list[Float16[np.ndarray, "_R D"]]] = {}
        places: list[tuple[int, int]] = []
        for run in runs:
            if number is None or (end and end + len(run) > self._rows_per_shard):
                number, end = self.catalogue.insert_shard(), 0
            begins.setdefault(number, end)
            pending.setdefault(number, []).append(run)
            places.append((number, end))
            end += len(run)
        for number, rows in pending.items():
            written = begins[number] + sum(map(len, rows))
            self._write_rows(number, begins[number], written, np.concatenate(rows))
            self.catalogue.set_shard_rows(number, written)
        return places

    def _write_rows(self, number: int, first: int, end: int, rows: Float16[np.ndarray, "R D"]) -> None:
        path = self._shard_path(number)
        # A new number's file can only be what a killed writer left behind.
        with path.open("wb" if first == 0 else "r+b") as file:
            file.seek(HEADER_BYTES + first * self._dim * 2)
            file.write(np.ascontiguousarray(rows, "<f2").data)
            file.seek(0)
            file.write(_npy_header(end, self._dim))
            file.flush()
            os.fsync(file.fileno())
        if first == 0:
            sync_directory(self.directory)

    def _delete_strays(self) -> None:
        """Deletes shard files that no catalogue row names: a writer was killed while it made them."""
        known = self.catalogue.shards()
        for path in self.directory.iterdir():
            match = _SHARD.fullmatch(path.name)
            if match and int(match[1]) not in known:
                logger.info("deleting %s, which an interrupted run left behind", path)
                self._unlink(path)

    def _unlink(self, path: Path) -> None:
        # Some systems keep files that a reader has mapped; the next writer tries again.
        with suppress(PermissionError):
            path.unlink(missing_ok=True)


def _prepare(directory: Path, *, create: bool) -> None:
    """Makes sure that `directory` exists and is an index, or is ours to make one of."""
    try:
        if create:
            directory.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in directory.iterdir()}
    except OSError as error:
        raise StoreError(f"{directory} cannot be used as index directory: {error.strerror}.") from error
    if CATALOGUE in names:
        return
    if not create:
        raise StoreError(
            f"there is no index at {directory}: it has no {CATALOGUE}. Name another directory."
        )
    if any(map(_SHARD.fullmatch, names)):
        raise StoreError(
            f"{directory} holds regions but no {CATALOGUE}. Restore that file from a copy, or delete the "
            "directory and index the pictures again."
        )
    foreign = sorted(name for name in names if name != LOCK and not name.startswith((".", CATALOGUE)))
    if foreign:
        raise StoreError(
            f"{directory} is not an index: it has no {CATALOGUE}, but other files such as {foreign[0]!r}. "
            "Name an empty directory or one that does not exist yet."
        )


def _npy_header(rows: int, dim: int) -> bytes:
    """Header of a float16 [rows, dim] file in NumPy's format 1.0, padded so that it never grows."""
    described = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({rows}, {dim}), }}"
    prefix = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    return prefix + described.ljust(HEADER_BYTES - 11).encode() + b"\n"
