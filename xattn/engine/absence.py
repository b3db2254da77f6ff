"""Files of the index that are not on the disk: which were deleted, and which may only be out of reach.

A drive that is not mounted leaves an empty folder or a dead link, and a network share may answer with
nothing. None of these is a deletion: a file counts as deleted only where its folder shows other pictures.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

MANY = 20
"""Of a folder's pictures, at least so many that are gone, and more than half, are not taken as deleted."""


def deleted_and_absent(
    known: Collection[Path], present: Iterable[Path], vanished: Collection[Path]
) -> tuple[list[Path], list[Path]]:
    """Divides `vanished` into files that were deleted and files that may come back.

    Args:
        known: all files of the index below the scanned folders, `vanished` among them
        present: the picture files that the scan listed
        vanished: files of the index that the system says are not there

    Returns:
        Deleted files, whose folder has pictures at or below it and lost few; and absent files, all others.
    """
    folders = {folder for path in present for folder in path.parents}
    held = Counter(path.parent for path in known)
    lost = Counter(path.parent for path in vanished)
    deleted: list[Path] = []
    absent: list[Path] = []
    for path in vanished:
        folder = path.parent
        much = lost[folder] >= MANY and 2 * lost[folder] > held[folder]
        (deleted if folder in folders and not much else absent).append(path)
    return deleted, absent


def is_gone(path: Path) -> bool:
    """True only where the system says so: an error such as a missing permission is no proof."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
