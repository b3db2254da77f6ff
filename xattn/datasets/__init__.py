"""Pictures with captions, for training and evaluation, from any of these layouts.

DIR/records.jsonl                  one object a line; beside it hard_negatives.jsonl, if there is one
captions_*.json, instances_*.json  COCO; the file or a folder that holds it
TABLE.csv .tsv .jsonl .parquet     a picture and a caption a row; or a folder with metadata.csv and such
DIR/**/picture.jpg + picture.txt   any folder; each line of the text is a caption; or picture.json
"""

from __future__ import annotations

from pathlib import Path

from xattn.datasets.base import Dataset, Fractions, HardNegative, NamedBox, Record, Statement
from xattn.datasets.coco import choose, coco_files, read_coco
from xattn.datasets.folder import folder_splits, read_folder
from xattn.datasets.records import read_records, record_splits
from xattn.datasets.tables import SUFFIXES, find_table, read_table, table_splits
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
    Raises DataError if the layout is not known or a line cannot be read.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".json":
        return read_coco(path, split, pictures)
    if path.is_file() and path.suffix in SUFFIXES:
        return read_table(path, split, pictures)
    if (path / "records.jsonl").is_file():
        return read_records(path, split)
    if path.is_dir():
        annotated = coco_files(path)
        if annotated:
            return read_coco(choose(annotated, split, path), split, pictures)
        table = find_table(path)
        return read_folder(path, split) if table is None else read_table(table, split, pictures)
    raise DataError(
        f"{path} is no dataset: expected a folder with records.jsonl, a COCO .json file, a table "
        f"({', '.join(SUFFIXES)}), or a folder of pictures with a .txt file of captions beside each; found "
        f"{'another kind of file' if path.exists() else 'nothing there'}."
    )


def splits_of(path: Path | str) -> list[str]:
    """Names of the splits that a dataset has; none where it is one whole."""
    path = Path(path)
    if path.is_file():
        return table_splits(path) if path.suffix in SUFFIXES else []
    if (path / "records.jsonl").is_file():
        return record_splits(path)
    annotated = coco_files(path)
    if annotated:
        return sorted(annotated)
    table = find_table(path)
    return folder_splits(path) if table is None else table_splits(table)
