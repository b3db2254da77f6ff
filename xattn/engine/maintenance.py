"""What needs no model: telling what an index holds, and removing pictures from it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from xattn.engine.places import indexed_at
from xattn.store import Store
from xattn.store.schema import FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index holds.

    num_pictures: files that can be found; num_regions: stored region vectors; num_bytes: on disk;
    dim: their width D; model_name: of the model that made them; fingerprint: of its features
    """

    index_dir: Path
    num_pictures: int
    num_regions: int
    num_bytes: int
    dim: int
    model_name: str
    fingerprint: str
    format_version: int


def index_info(index_dir: Path | str) -> IndexInfo:
    """What the index in a directory holds; no model is loaded.

    Raises:
        StoreError: there is no index, or it is damaged.
    """
    with closing(Store(Path(index_dir).absolute(), None)) as store:
        return info_of(store)


def remove_pictures(index_dir: Path | str, paths: Iterable[Path]) -> tuple[list[Path], int]:
    """`Engine.remove` without a model.

    Returns:
        The removed files, in order, and how many files remain.

    Raises:
        StoreError: there is no index, or it is damaged.
        IndexBusy: another process is writing.
    """
    with closing(Store(Path(index_dir).absolute(), None)) as store:
        return remove_from(store, paths), store.catalogue.num_pictures()


def info_of(store: Store) -> IndexInfo:
    catalogue = store.catalogue
    with catalogue.snapshot():
        return IndexInfo(
            index_dir=store.directory,
            num_pictures=catalogue.num_pictures(),
            num_regions=catalogue.num_regions(),
            num_bytes=store.num_bytes(),
            dim=catalogue.identity.dim,
            model_name=catalogue.identity.name,
            fingerprint=catalogue.identity.fingerprint,
            format_version=FORMAT_VERSION,
        )


def remove_from(store: Store, paths: Iterable[Path]) -> list[Path]:
    with store.writing():
        removed = indexed_at(store.catalogue, paths)
        store.forget(removed)
        store.reclaim()
    return removed
