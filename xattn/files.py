"""Files that are written whole or not at all, and where a user's files of xattn lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs


def user_data_dir() -> Path:
    """For what must stay, such as indexes. Begins with ~ where the system knows no home directory."""
    return _absolute(platformdirs.user_data_path, Path("~/.local/share/xattn"))


def user_cache_dir() -> Path:
    """For what can be made again. Begins with ~ where the system knows no home directory."""
    return _absolute(platformdirs.user_cache_path, Path("~/.cache/xattn"))


def _absolute(directory: Callable[..., Path], otherwise: Path) -> Path:
    """A relative XDG_DATA_HOME is invalid: it would be another folder in each working directory."""
    try:
        path = directory("xattn", appauthor=False)
    except RuntimeError:  # newer versions of platformdirs, without a home directory
        return otherwise
    return path if path.is_absolute() else otherwise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends without an error.

    It is durable before its name is, so that after a crash the old or the new content is there, never a
    part of it. After an error nothing is left of it.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file whole or not at all. Raises OSError as `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all. Raises OSError as `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def sync_directory(directory: Path) -> None:
    """Makes the names of new and removed files durable, where the system has a call for it."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
