"""The SQLite catalogue of an index: which files are known, what is in them, where their regions lie.

Two tables matter. `contents` has one row per distinct file content (blake2b), so a picture that lies in
two places is encoded once; `pictures` has one row per file. Ids are never reused.

SQLite runs with a rollback journal, not WAL: the vectors a search needs are in memory, so readers hold
their lock for milliseconds, and one plain file can be copied, lie on a network drive or be read-only.
`synchronous=EXTRA` makes a commit durable before it returns: after it, shard files may be unlinked.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from xattn.errors import IndexBusy, IndexMismatch, StoreError
from xattn.store.schema import (
    APPLICATION_ID,
    FORMAT_VERSION,
    MIGRATIONS,
    Content,
    FileState,
    Identity,
    Picture,
)
from xattn.types import Size

BUSY_TIMEOUT_S = 20.0
VECTORS_AT_ONCE = 8192


class Catalogue:
    """One connection, usable from several threads. `path` must exist or lie in an existing directory.

    identity: of the features of the model at hand; None: any. former_fingerprint: that of the whole model,
    by which earlier versions named the features; called only where the identity's differs.
    Raises IndexMismatch if the file belongs to another model or a newer format, StoreError if it is
    damaged or no catalogue at all, IndexBusy if other processes lock it for longer than 20 s.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity | None,
        former_fingerprint: Callable[[], str] | None = None,
    ) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._translated():
            self._db = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._translated():
                self._db.execute("PRAGMA synchronous = EXTRA")
                self._db.execute("PRAGMA foreign_keys = ON")
                self._migrate(identity)
            self.identity = self._checked_identity(identity, former_fingerprint)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # --- opening ------------------------------------------------------------------------------------

    def _migrate(self, identity: Identity | None) -> None:
        if self._format_version() == FORMAT_VERSION:
            return
        with self.transaction():
            found = self._format_version()  # again: another process may have been faster
            for statements in MIGRATIONS[found:]:
                for statement in statements:
                    self._db.execute(statement)
            if found == 0 and identity is None:
                raise self._damaged("it is empty")
            if found == 0 and identity is not None:
                meta = {key: str(value) for key, value in identity._asdict().items()}
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    def _format_version(self) -> int:
        application_id = self._one("PRAGMA application_id")
        version = int(self._one("PRAGMA user_version"))
        if application_id != APPLICATION_ID and self._one("SELECT count(*) FROM sqlite_master"):
            raise StoreError(
                f"{self.path} is a database, but not one that xattn wrote. "
                "Choose another directory for the index."
            )
        if version > FORMAT_VERSION:
            raise IndexMismatch(
                f"{self.path.parent} was written by a newer xattn: its format is {version}, this version "
                f"reads up to {FORMAT_VERSION}. Upgrade xattn, or index into another directory."
            )
        return version

    def _checked_identity(
        self, given: Identity | None, former_fingerprint: Callable[[], str] | None
    ) -> Identity:
        meta = dict(self._all("SELECT key, value FROM meta"))
        try:
            stored = Identity(meta["fingerprint"], meta["name"], int(meta["dim"]))
        except (KeyError, ValueError) as error:
            raise self._damaged(f"its meta table lacks {error}") from error
        if given is None or stored.fingerprint == given.fingerprint:
            return stored
        if former_fingerprint is not None and stored.fingerprint == former_fingerprint():
            with suppress(StoreError), self.transaction():  # the next to open it may lack this model
                self._set_fingerprint(given.fingerprint)
            return stored._replace(fingerprint=given.fingerprint)
        raise self._mismatch(stored, given)

    def _set_fingerprint(self, fingerprint: str) -> None:
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'fingerprint'", (fingerprint,))

    def _mismatch(self, stored: Identity, given: Identity) -> IndexMismatch:
        directory = self.path.parent
        return IndexMismatch(
            f"{directory} was indexed with model {stored.name!r} ({stored.fingerprint[:12]}), but "
            f"opened with {given.name!r} ({given.fingerprint[:12]}). The features of different models "
            "cannot be compared. Open it with the model it was made with, index into another "
            f"directory, or delete {directory} and index again."
        )

    # --- transactions and errors --------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside becomes visible at its end, or, if anything raises, never."""
        with self._spanning("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside is of one moment; no other process commits before its end."""
        with self._spanning("BEGIN"):
            yield

    @contextmanager
    def _spanning(self, begin: str) -> Iterator[None]:
        with self._lock, self._translated():
            self._db.execute(begin)
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise StoreError(f"{self.path.parent} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise IndexBusy(
                    f"{self.path} was locked by another process for more than {BUSY_TIMEOUT_S:.0f} s. "
                    "Try again when that process has finished."
                ) from error
            # SQLITE_ERROR also tells of what is no damage, such as a full temporary folder.
            lacks_table = code == sqlite3.SQLITE_ERROR and str(error).startswith("no such ")
            if lacks_table or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self._damaged(str(error)) from error
            raise StoreError(f"{self.path} cannot be read or written: {error}.") from error

    def _damaged(self, finding: str) -> StoreError:
        return StoreError(
            f"{self.path} is damaged: {finding}. Restore it from a copy, or delete the directory "
            f"{self.path.parent} and index the pictures again."
        )

    def _all(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock, self._translated():
            return self._db.execute(sql, parameters).fetchall()

    def _one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """First column of the first row, None without a row."""
        rows = self._all(sql, parameters)
        return rows[0][0] if rows else None

    def version(self) -> tuple[int, int]:
        """Differs after every commit, of this connection or another; costs microseconds."""
        with self._lock:
            return int(self._one("PRAGMA data_version")), self._db.total_changes

    # --- reading ------------------------------------------------------------------------------------

    def num_pictures(self) -> int:
        return int(self._one("SELECT count(*) FROM pictures"))

    def num_regions(self) -> int:
        return int(self._one("SELECT coalesce(sum(grid_height * grid_width), 0) FROM contents"))

    def shards(self) -> dict[int, int]:
        """Number → rows in use, dead ones included, in order."""
        return dict(self._all("SELECT number, rows FROM shards ORDER BY number"))

    def live_rows(self) -> dict[int, int]:
        """Number → rows that belong to a content, in order."""
        return dict(
            self._all(
                """SELECT number, coalesce(sum(grid_height * grid_width), 0)
                   FROM shards LEFT JOIN contents ON shard = number GROUP BY number ORDER BY number"""
            )
        )

    def content_ids(self) -> Int64[np.ndarray, " N"]:
        """Ascending."""
        return np.array([row[0] for row in self._all("SELECT id FROM contents ORDER BY id")], np.int64)

    def vectors_from(
        self, first: int
    ) -> Iterator[tuple[Int64[np.ndarray, " N"], Float[np.ndarray, "N D"]]]:
        """Ids and pooled vectors of the contents with an id of at least `first`, ascending, in parts, so
        that a large collection is never held twice. To be used inside `snapshot`."""
        with self._translated():
            found = self._db.execute("SELECT id, vector FROM contents WHERE id >= ? ORDER BY id", (first,))
            while rows := found.fetchmany(VECTORS_AT_ONCE):
                joined = b"".join([vector for _, vector in rows])
                if len(joined) != len(rows) * self.identity.dim * 4:
                    raise self._damaged("a stored vector has the wrong length")
                ids = np.array([content_id for content_id, _ in rows], np.int64)
                yield ids, np.frombuffer(joined, "<f4").reshape(-1, self.identity.dim)

    def contents(self, ids: Iterable[int]) -> list[Content]:
        """Those of the ids that exist, ascending."""
        return self._contents("id", ids)

    def contents_of_shard(self, number: int) -> list[Content]:
        return self._contents("shard", (number,))

    def _contents(self, column: str, values: Iterable[int]) -> list[Content]:
        rows = self._all(
            f"""SELECT id, height, width, grid_height, grid_width, shard, first_row, vector
                FROM contents WHERE {column} IN ({_integers(values)}) ORDER BY id"""
        )
        return [
            Content(i, (height, width), (rows_, columns), shard, first_row, np.frombuffer(vector, "<f4"))
            for i, height, width, rows_, columns, shard, first_row, vector in rows
        ]

    def hashes(self) -> set[bytes]:
        return {row[0] for row in self._all("SELECT hash FROM contents")}

    def content_id(self, content_hash: bytes) -> int | None:
        found: int | None = self._one("SELECT id FROM contents WHERE hash = ?", (content_hash,))
        return found

    def pictures_of(self, content_ids: Iterable[int]) -> list[Picture]:
        """The files that have one of these contents, by id."""
        rows = self._all(
            "SELECT id, path, content FROM pictures "
            f"WHERE content IN ({_integers(content_ids)}) ORDER BY id"
        )
        return [Picture(i, Path(os.fsdecode(path)), content) for i, path, content in rows]

    def file(self, path: Path) -> tuple[bytes, FileState] | None:
        """Content hash and state of a known file."""
        rows = self._all(
            """SELECT hash, file_size, mtime_ns, ctime_ns, inode
               FROM pictures JOIN contents ON contents.id = content WHERE path = ?""",
            (os.fsencode(path),),
        )
        return (rows[0][0], FileState(*rows[0][1:])) if rows else None

    def paths(self) -> list[Path]:
        """All known files, in order."""
        return [Path(os.fsdecode(row[0])) for row in self._all("SELECT path FROM pictures ORDER BY path")]

    def paths_at(self, path: Path) -> list[Path]:
        """The known file of that path, or all known files below that folder, in order."""
        exact = os.fsencode(path)
        below = exact.rstrip(os.fsencode(os.sep)) + os.fsencode(os.sep)
        beyond = below[:-1] + bytes([below[-1] + 1])
        rows = self._all(
            "SELECT path FROM pictures WHERE path = ? OR (path >= ? AND path < ?) ORDER BY path",
            (exact, below, beyond),
        )
        return [Path(os.fsdecode(row[0])) for row in rows]

    # --- writing: inside `transaction` ----------------------------------------------------------------

    def insert_shard(self) -> int:
        return int(self._db.execute("INSERT INTO shards (rows) VALUES (0)").lastrowid or 0)

    def set_shard_rows(self, number: int, rows: int) -> None:
        self._db.execute("UPDATE shards SET rows = ? WHERE number = ?", (rows, number))

    def delete_shard(self, number: int) -> None:
        self._db.execute("DELETE FROM shards WHERE number = ?", (number,))

    def insert_content(
        self,
        content_hash: bytes,
        size: Size,
        grid: Size,
        place: tuple[int, int],
        pooled: Float[np.ndarray, " D"],
    ) -> None:
        """place: (shard, first row)."""
        self._db.execute(
            """INSERT INTO contents (hash, height, width, grid_height, grid_width, shard, first_row, vector)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
            (content_hash, *size, *grid, *place, pooled.astype("<f4").tobytes()),
        )

    def move_content(self, content_id: int, place: tuple[int, int]) -> None:
        self._db.execute("UPDATE contents SET shard = ?, first_row = ? WHERE id = ?", (*place, content_id))

    def delete_unused_contents(self) -> int:
        """Deletes the contents that no file has; returns how many."""
        return self._db.execute(
            "DELETE FROM contents WHERE id NOT IN (SELECT content FROM pictures)"
        ).rowcount

    def put_file(self, path: Path, content_hash: bytes, state: FileState) -> None:
        """Adds a file, or changes content and state of a known one, which keeps its id."""
        self._db.execute(
            """INSERT INTO pictures (path, content, file_size, mtime_ns, ctime_ns, inode)
               VALUES (?, (SELECT id FROM contents WHERE hash = ?), ?, ?, ?, ?)
               ON CONFLICT (path) DO UPDATE SET
                   content = excluded.content,
                   file_size = excluded.file_size,
                   mtime_ns = excluded.mtime_ns,
                   ctime_ns = excluded.ctime_ns,
                   inode = excluded.inode""",
            (os.fsencode(path), content_hash, *state),
        )

    def move_file(self, old: Path, new: Path) -> None:
        """Renames a file, which keeps its id; what was known at `new` is forgotten."""
        self.delete_file(new)
        self._db.execute(
            "UPDATE pictures SET path = ? WHERE path = ?", (os.fsencode(new), os.fsencode(old))
        )

    def delete_file(self, path: Path) -> None:
        self._db.execute("DELETE FROM pictures WHERE path = ?", (os.fsencode(path),))


def _integers(values: Iterable[int]) -> str:
    """A list for `IN (…)`. Integers need no quoting, and parameters would be limited in number."""
    return ",".join(str(int(value)) for value in values)
