"""Names of splits in names of files and folders."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

SPLITS = ("train", "val", "valid", "validation", "dev", "test")
"""Folders of such a name are splits, and so are files that begin so."""


def split_of(path: str) -> str | None:
    """The split that a file belongs to, by its name or that of its folder.

    >>> split_of("s3://bucket/train-0001.tar"), split_of("/data/val/00.tar"), split_of("/data/trains.tar")
    ('train', 'val', None)
    """
    posix = PurePosixPath(path.replace("\\", "/"))
    for part in (posix.name, posix.parent.name):
        first = re.match(r"[a-z]*", part.lower())
        if first is not None and first[0] in SPLITS:
            return first[0]
    return None
