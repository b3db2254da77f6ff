"""Which reader a path needs, and what all readers share: splits, and refusing what is not complete."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from xattn.datasets.base import Dataset, SkippedEntry, reading, select
from xattn.datasets.coco import choose, coco_files, is_coco, read_coco
from xattn.datasets.columns import is_file
from xattn.datasets.discover import Described, advice, describing_files, parquet_parts
from xattn.datasets.folder import folder_splits, has_captions, read_folder
from xattn.datasets.hugging_face import is_hugging_face, unpack_hugging_face
from xattn.datasets.records import FILE, read_records
from xattn.datasets.shards import are_shards, unpack_shards
from xattn.datasets.tables import SUFFIXES, is_table, read_parquet, read_table
from xattn.datasets.text import decode
from xattn.datasets.unpacked import read_unpacked
from xattn.errors import DataError

logger = logging.getLogger(__name__)

_MOST_NAMED = 3
"""Skipped entries that a message lists."""


def load_dataset(
    path: Path | str, split: str | None = None, *, pictures: Path | str | None = None
) -> Dataset:
    """`read_dataset`, and the dataset must be complete.

    Raises DataError if the layout is not known, an image or a caption cannot be read, or a picture is
    missing.
    """
    dataset = read_dataset(path, split, pictures=pictures)
    fatal = [entry for entry in dataset.skipped if entry.is_fatal]
    if fatal:
        listed = "; ".join([*map(str, fatal[:_MOST_NAMED]), *("…" for _ in fatal[_MOST_NAMED:][:1])])
        raise DataError(
            f"{len(fatal)} of the entries of {path} cannot be read: {listed}. `xattn data check` lists all."
        )
    if not dataset.records:
        raise DataError(f"{path} has no pictures: it is empty.")
    for kind, what in (("box", "boxes"), ("picture", "picture files without captions")):
        entries = [entry for entry in dataset.skipped if entry.kind == kind]
        if entries:
            logger.warning("%d %s of %s cannot be read: %s …", len(entries), what, path, entries[0])
    missing = missing_pictures(dataset)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(dataset.records)} pictures of {path} are missing; the first is "
            f"{missing[0]}. `xattn data check` lists what is wrong."
        )
    return dataset


def missing_pictures(dataset: Dataset) -> list[Path]:
    return [record.image for record in dataset.records if not is_file(record.image)]


def read_dataset(
    path: Path | str, split: str | None = None, *, pictures: Path | str | None = None
) -> Dataset:
    """Reads any of the layouts of `xattn.datasets`; what cannot be read is in `skipped`.

    split:    keeps the records of that split; for COCO the part of the file name after "captions_" or
              "instances_", with or without its year; for a folder with captions, a folder in it
    pictures: where the pictures of a COCO file or a table are, if not in one of the usual places beside it
    Raises DataError if the layout is not known or a file as a whole cannot be read, MissingExtra if a
    package is needed that is not installed.
    """
    return _layout(path).read(split, pictures)


def splits_of(path: Path | str) -> list[str]:
    """Names of the splits that a dataset has; none where it is one whole."""
    return _layout(path).splits()


def read_parts(path: Path | str, *, pictures: Path | str | None = None) -> list[Dataset]:
    """All of a dataset, each file or folder once; records say their split."""
    return _layout(path).parts(pictures)


class _Layout(NamedTuple):
    """read: (split, where the pictures are) → the dataset; parts: where the pictures are → all of it"""

    splits: Callable[[], list[str]]
    read: Callable[[str | None, Path | str | None], Dataset]
    parts: Callable[[Path | str | None], list[Dataset]]


def _whole(read: Callable[[Path | str | None], Dataset], source: object) -> _Layout:
    """A layout whose splits are known only from reading all of it."""
    return _Layout(
        lambda: read(None).splits,
        lambda split, pictures: select(read(pictures), split, source),
        lambda pictures: [read(pictures)],
    )


def _layout(given: Path | str) -> _Layout:
    source, path = str(given), Path(given)
    unpack = _unpacker(source)
    if unpack is not None:
        name = path.name.partition(".")[0]
        return _whole(lambda _: replace(read_unpacked(unpack(source)), name=name, source=source), source)
    if is_file(path) and is_table(path):
        return _file_layout(path)
    if (path / FILE).is_file():
        return _whole(lambda _: read_records(path), path / FILE)
    if not path.is_dir():
        raise DataError(
            f"{source} is no dataset: expected a folder with {FILE}, a COCO .json file, a table "
            f"({', '.join(SUFFIXES)}), .tar files, hf:NAME, or a folder of pictures with a .txt file of "
            f"captions beside each; found {'another kind of file' if path.exists() else 'nothing there'}."
        )
    annotated = coco_files(path)
    return _coco_layout(annotated, path) if annotated else _folder_layout(path)


def _unpacker(source: str) -> Callable[[str], Path] | None:
    """What writes out the pictures of a source whose pictures are no files; None for others."""
    if is_hugging_face(source):
        return unpack_hugging_face
    return unpack_shards if are_shards(source) else None


def _file_layout(path: Path) -> _Layout:
    if path.suffix.lower() == ".json" and _is_coco_file(path):
        return _Layout(list, partial(read_coco, path), lambda pictures: [read_coco(path, None, pictures)])
    return _whole(partial(read_table, path), path)


def _is_coco_file(path: Path) -> bool:
    """By its name, unless it is a list; other names by the content."""
    with reading(str(path)):
        text = decode(path.read_bytes())
        if text.lstrip().startswith("["):
            return False
        if path.stem.startswith(("captions_", "instances_")):
            return True
        try:
            return is_coco(json.loads(text))
        except (ValueError, RecursionError):
            return False


def _coco_layout(annotated: dict[str, Path], path: Path) -> _Layout:
    return _Layout(
        lambda: sorted(annotated),
        lambda split, pictures: read_coco(choose(annotated, split, path), split, pictures),
        lambda pictures: [read_coco(annotated[name], name, pictures) for name in sorted(annotated)],
    )


def _folder_layout(path: Path) -> _Layout:
    described = describing_files(path)
    if described.usual is not None:
        return _noted(_file_layout(described.usual), _unused(described, beside=described.usual))
    if has_captions(path):
        return _noted(_sidecar_layout(path, ""), _unused(described))
    parts = parquet_parts(path, described)
    if parts:
        return _whole(
            lambda pictures: replace(
                read_parquet(parts, pictures), name=path.resolve().name, source=str(path)
            ),
            path,
        )
    if len(described.others) == 1:
        return _noted(_file_layout(described.others[0]), _unused(described._replace(others=[])))
    if not described.others and (splits := _split_layouts(path)):
        return _joined(splits, path)
    return _sidecar_layout(path, advice(path, described))


def _sidecar_layout(path: Path, hint: str) -> _Layout:
    def read(split: str | None, _: Path | str | None) -> Dataset:
        try:
            return read_folder(path, split)
        except DataError as error:
            raise DataError(f"{error}{hint}") from error

    return _Layout(lambda: folder_splits(path), read, lambda pictures: [read(None, pictures)])


def _split_layouts(path: Path) -> dict[str, _Layout]:
    """Layouts of folders that are called as splits are, each described by a file in it; none otherwise."""
    layouts: dict[str, _Layout] = {}
    for name in folder_splits(path):
        described = describing_files(path / name)
        tables = [described.usual] if described.usual is not None else described.others
        if len(tables) != 1:
            return {}
        layouts[name] = _file_layout(tables[0])
    return layouts


def _joined(layouts: dict[str, _Layout], path: Path) -> _Layout:
    """One dataset of several, each of which is a split."""

    def part(name: str, pictures: Path | str | None) -> Dataset:
        (dataset,) = layouts[name].parts(pictures)
        records = tuple(replace(record, split=name, id=f"{name}/{record.id}") for record in dataset.records)
        skipped = tuple(replace(entry, split=name) for entry in dataset.skipped)
        return replace(dataset, name=path.resolve().name, split=name, records=records, skipped=skipped)

    def read(split: str | None, pictures: Path | str | None) -> Dataset:
        if split is not None and split not in layouts:
            raise DataError(f"{path} has no record of the split {split!r}; it has {sorted(layouts)}.")
        parts = [part(name, pictures) for name in (layouts if split is None else [split])]
        return replace(
            parts[0],
            split=split,
            records=tuple(record for dataset in parts for record in dataset.records),
            skipped=tuple(entry for dataset in parts for entry in dataset.skipped),
            source=str(path),
            num_entries=sum(dataset.num_entries for dataset in parts),
            num_used=sum(dataset.num_used for dataset in parts),
        )

    return _Layout(lambda: sorted(layouts), read, lambda pictures: [read(None, pictures)])


def _unused(described: Described, beside: Path | None = None) -> list[SkippedEntry]:
    """Files that may hold captions and are not read, with the way to have them read."""
    notes = [
        SkippedEntry(
            str(path), f"this table is not read; to read it, give it: `xattn data check {path}`", "file"
        )
        for path in described.others
    ]
    notes += [
        SkippedEntry(str(path), "spreadsheets cannot be read; save it as CSV", "file")
        for path in described.spreadsheets
    ]
    if beside is not None and described.num_sidecars:
        reason = (
            f"{described.num_sidecars} files of captions beside pictures are not read: {beside.name} is"
        )
        notes.append(SkippedEntry(str(beside.parent), reason, "file"))
    return notes


def _noted(layout: _Layout, notes: list[SkippedEntry]) -> _Layout:
    """The layout, whose datasets name the notes, too."""

    def noted(dataset: Dataset) -> Dataset:
        return replace(dataset, skipped=(*dataset.skipped, *notes))

    return _Layout(
        layout.splits,
        lambda split, pictures: noted(layout.read(split, pictures)),
        lambda pictures: [noted(dataset) for dataset in layout.parts(pictures)],
    )
