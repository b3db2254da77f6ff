"""Tables of the catalogue, their migrations, and the rows that pass in and out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from xattn.types import Size

APPLICATION_ID = 0x78617474  # "xatt"


MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE shards (number INTEGER PRIMARY KEY AUTOINCREMENT, rows INTEGER NOT NULL)",
        """CREATE TABLE contents (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            hash BLOB NOT NULL UNIQUE,
            height INTEGER NOT NULL,
            width INTEGER NOT NULL,
            grid_height INTEGER NOT NULL,
            grid_width INTEGER NOT NULL,
            shard INTEGER NOT NULL REFERENCES shards (number),
            first_row INTEGER NOT NULL,
            vector BLOB NOT NULL)""",
        "CREATE INDEX contents_by_shard ON contents (shard)",
        """CREATE TABLE pictures (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            path BLOB NOT NULL UNIQUE,
            content INTEGER NOT NULL REFERENCES contents (id),
            file_size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL)""",
        "CREATE INDEX pictures_by_content ON pictures (content)",
    ),
    (
        "ALTER TABLE pictures ADD COLUMN ctime_ns INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE pictures ADD COLUMN inode INTEGER NOT NULL DEFAULT 0",
    ),
)
"""Statements that bring format n to format n + 1. Never edited once released; `path` holds the bytes of
the file system, which need not be UTF-8; `vector` is little-endian float32."""


FORMAT_VERSION = len(MIGRATIONS)


class Identity(NamedTuple):
    """The model whose features an index holds. fingerprint: of the features, not of the whole model."""

    fingerprint: str
    name: str
    dim: int


class FileState(NamedTuple):
    """What tells that a file has not changed, without reading it.

    ctime_ns and inode tell of content that came with its old date: by a program that sets the date back, or
    by a rename. Both are 0 in rows of format 1, whose files are read once more.
    """

    file_size: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Raises OSError if the file cannot be asked."""
        stat = path.stat()
        return cls(stat.st_size, *map(_signed, (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)))


def _signed(value: int) -> int:
    """The value modulo 2⁶⁴, signed as in SQLite: dates beyond 2262 and some inodes need more."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


class Picture(NamedTuple):
    """One file that can be found."""

    picture_id: int
    path: Path
    content_id: int


class Content(NamedTuple):
    """What is stored of one distinct file content. `size` is that of the upright picture."""

    content_id: int
    size: Size
    grid: Size
    shard: int
    first_row: int
    pooled: Float[np.ndarray, " D"]

    @property
    def num_rows(self) -> int:
        return self.grid[0] * self.grid[1]
