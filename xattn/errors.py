"""Every error xattn raises on purpose.

    XattnError
    ├── ImageError            a picture cannot be read; the message names the file and the way out
    ├── QueryError            a query is empty or asks for fewer than one result; also a ValueError
    ├── StoreError            the index directory cannot be used
    │   ├── IndexMismatch     it was written by another model or by a newer xattn
    │   └── IndexBusy         another process is writing to it
    ├── CheckpointError       a model directory is missing, damaged or of an unknown version
    ├── ModelNotFound         no model answers to that name
    ├── DataError             a dataset for training or evaluation cannot be used
    ├── TrainingStopped       training cannot go on; the last good state is kept
    └── MissingExtra          an optional dependency is not installed

Each message says what happened, what was expected, what was found, and what to do next.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path


class XattnError(Exception):
    """Base of all errors that xattn raises on purpose."""


class ImageError(XattnError):
    """A picture cannot be read: `path` says which, `reason` why."""

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class QueryError(XattnError, ValueError):
    """A query is empty or asks for fewer than one result."""


class StoreError(XattnError):
    """An index directory cannot be used."""


class IndexMismatch(StoreError):
    """The index was written by another model or by a newer version of xattn."""


class IndexBusy(StoreError):
    """Another process is writing to the index."""


class CheckpointError(XattnError):
    """A model directory is missing, damaged or of an unknown version."""


class ModelNotFound(XattnError):
    """No model answers to the given name."""


class DataError(XattnError):
    """A dataset for training or evaluation cannot be used."""


class TrainingStopped(XattnError):
    """Training cannot go on. The last good state is kept."""


class MissingExtra(XattnError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs the package {package!r}: pip install 'xattn[{extra}]'")
