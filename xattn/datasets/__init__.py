"""Pictures with captions, for training and evaluation, from any of these layouts.

DIR/records.jsonl                  one object a line; beside it hard_negatives.jsonl, if there is one
captions_*.json, instances_*.json  COCO; the file or a folder that holds it
TABLE.csv .tsv .jsonl .parquet     a picture and a caption a row; or a folder with metadata.csv and such
DIR/**/picture.jpg + picture.txt   any folder; each line of the text is a caption; or picture.json
train-{00..07}.tar                 WebDataset: local paths, URLs that fsspec opens, a folder of tar files
DIR, hf:NAME                       Hugging Face: what `save_to_disk` wrote, or by name from the hub
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from xattn.datasets.base import Dataset, Fractions, HardNegative, NamedBox, Record, Statement
from xattn.datasets.coco import choose, coco_files, read_coco
from xattn.datasets.folder import folder_splits, read_folder
from xattn.datasets.hugging_face import is_hugging_face, unpack_hugging_face
from xattn.datasets.records import read_records, record_splits
from xattn.datasets.shards import are_shards, unpack_shards
from xattn.datasets.tables import SUFFIXES, find_table, read_table, table_splits
from xattn.datasets.unpacked import read_unpacked, unpacked_splits
from xattn.errors import DataError

__all__ = [
    "Dataset",
    "Fractions",
    "HardNegative",
    "NamedBox",
    "Record",
    "Statement",
    "load_dataset",
    "missing_pictures",
    "read_dataset",
    "splits_of",
]


def load_dataset(
    path: Path | str, split: str | None = None, *, pictures: Path | str | None = None
) -> Dataset:
    """`read_dataset`, and all its pictures must be there.

    Raises DataError if the layout is not known, a line cannot be read, or a picture is missing.
    """
    dataset = read_dataset(path, split, pictures=pictures)
    missing = missing_pictures(dataset)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(dataset.records)} pictures of {path} are missing; the first is "
            f"{missing[0]}. `xattn data check` lists what is wrong."
        )
    return dataset


def missing_pictures(dataset: Dataset) -> list[Path]:
    return [record.image for record in dataset.records if not record.image.is_file()]


def read_dataset(
    path: Path | str, split: str | None = None, *, pictures: Path | str | None = None
) -> Dataset:
    """Reads any of the layouts of the module docstring.

    split:    keeps the records of that split; for COCO the part of the file name after "captions_" or
              "instances_"; for a folder with captions, a folder in it
    pictures: where the pictures of a COCO file or a table are, if not in one of the usual places beside it
    Raises DataError if the layout is not known or a line cannot be read, MissingExtra if a package is
    needed that is not installed.
    """
    return _layout(path).read(split, pictures)


def splits_of(path: Path | str) -> list[str]:
    """Names of the splits that a dataset has; none where it is one whole."""
    return _layout(path).splits()


class _Layout(NamedTuple):
    """read: (split, where the pictures are) → the dataset"""

    splits: Callable[[], list[str]]
    read: Callable[[str | None, Path | str | None], Dataset]


def _layout(given: Path | str) -> _Layout:
    source, path = str(given), Path(given)
    unpack = _unpacker(source)
    if unpack is not None:
        folder, name = unpack(source), Path(source).name.partition(".")[0]
        return _Layout(lambda: unpacked_splits(folder), lambda split, _: read_unpacked(folder, split, name))
    if path.is_file() and path.suffix == ".json":
        return _Layout(list, partial(read_coco, path))
    if path.is_file() and path.suffix in SUFFIXES:
        return _Layout(lambda: table_splits(path), partial(read_table, path))
    if (path / "records.jsonl").is_file():
        return _Layout(lambda: record_splits(path), lambda split, _: read_records(path, split))
    if not path.is_dir():
        raise DataError(
            f"{source} is no dataset: expected a folder with records.jsonl, a COCO .json file, a table "
            f"({', '.join(SUFFIXES)}), .tar files, hf:NAME, or a folder of pictures with a .txt file of "
            f"captions beside each; found {'another kind of file' if path.exists() else 'nothing there'}."
        )
    annotated, table = coco_files(path), find_table(path)
    if annotated:
        return _Layout(
            lambda: sorted(annotated),
            lambda split, pictures: read_coco(choose(annotated, split, path), split, pictures),
        )
    if table is not None:
        return _Layout(lambda: table_splits(table), partial(read_table, table))
    return _Layout(lambda: folder_splits(path), lambda split, _: read_folder(path, split))


def _unpacker(source: str) -> Callable[[str], Path] | None:
    """What writes out the pictures of a source whose pictures are no files; None for others."""
    if is_hugging_face(source):
        return unpack_hugging_face
    return unpack_shards if are_shards(source) else None
