"""Paths as the index knows them: a folder is one folder, whichever way it was reached."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from xattn.store.catalogue import Catalogue


def located(path: Path) -> Path:
    """Absolute, and the same whichever way a folder was reached. A link to a file stays itself."""
    return path.resolve() if path.is_dir() else path.parent.resolve() / path.name


def indexed_at(catalogue: Catalogue, paths: Iterable[Path]) -> list[Path]:
    """The indexed files at and below `paths`, in order.

    A file is at a path by its name in the index, which may lead through links, dead ones too, or by the
    real place of its folder.
    """
    real_folder = cache(os.path.realpath)
    everything = catalogue.paths()
    matching: set[Path] = set()
    for path in paths:
        place = located(path)
        matching.update(catalogue.paths_at(Path(os.path.abspath(path))), catalogue.paths_at(place))
        for file in everything:
            real = Path(real_folder(file.parent), file.name)
            if real == place or place in real.parents:
                matching.add(file)
    return sorted(matching)
