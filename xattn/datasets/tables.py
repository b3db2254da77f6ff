"""Tables with a picture and a caption in each row: .csv, .tsv, .jsonl, .parquet.

Columns are found by name (PICTURE_COLUMNS, CAPTION_COLUMNS, `split`); rows of one picture are joined. Paths
of pictures are relative to the table, as in Hugging Face's metadata.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xattn.datasets.base import (
    Dataset,
    Record,
    count_blank,
    distinct,
    distinct_splits,
    json_lines,
    reading,
)
from xattn.errors import DataError, MissingExtra

PICTURE_COLUMNS = ("image", "file_name", "filename", "file", "path", "filepath", "image_path", "picture")
CAPTION_COLUMNS = ("captions", "caption", "text", "title", "description", "sentences")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
USUAL_NAMES = ("metadata", "captions")
"""A table of this name in a folder describes it."""


def find_table(folder: Path) -> Path | None:
    """The table that describes a folder of pictures, if there is one."""
    places = (folder / f"{name}{suffix}" for name in USUAL_NAMES for suffix in SUFFIXES)
    return next((place for place in places if place.is_file()), None)


def read_table(path: Path, split: str | None, pictures: Path | str | None) -> Dataset:
    """Raises DataError where columns are missing or a row cannot be read, and names the row."""
    folder = path.parent if pictures is None else Path(pictures)
    captions: dict[str, list[str]] = {}
    splits: set[str] = set()
    for where, row in _rows(path):
        with reading(where):
            splits.add(str(row.get("split")))
            if split is not None and str(row.get("split")) != split:
                continue
            name = row[column(row, PICTURE_COLUMNS, "a picture", where)]
            if not isinstance(name, str):
                raise TypeError(f"expected the path of a picture, got {type(name).__name__}")
            given = row[column(row, CAPTION_COLUMNS, "a caption", where)]
            captions.setdefault(name, []).extend(texts(given))
    if not captions:
        raise DataError(
            f"{path} has no row of the split {split!r}; it has {sorted(splits)}."
            if splits
            else f"{path} is empty."
        )
    records = tuple(
        Record(name, folder / name, distinct(lines), num_blank=count_blank(lines))
        for name, lines in captions.items()
    )
    return Dataset(path.stem, split, records)


def table_splits(path: Path) -> list[str]:
    return distinct_splits(row.get("split") for _, row in _rows(path))


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file:row, column → value)"""
    if path.suffix in (".jsonl", ".ndjson"):
        yield from json_lines(path)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        # The separator is found, not believed: files are often called .csv with tabs or semicolons inside.
        with reading(str(path)), path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            separator = max(("\t", ",", ";", "|"), key=first.count) if first else ","
            for number, row in enumerate(csv.DictReader(file, delimiter=separator), 1):
                if None in row or None in row.values():
                    raise ValueError(f"row {number} has not {len(row)} fields as the first line has")
                yield f"{path}, row {number}", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow", "data", f"reading {path.name}")
    parquet: Any = import_module("pyarrow.parquet")
    with reading(str(path)):
        table = parquet.ParquetFile(str(path))
        # Pictures may be inside, megabytes each; only names and texts are read.
        known = {*PICTURE_COLUMNS, *CAPTION_COLUMNS, "split"}
        columns = [name for name in table.schema_arrow.names if name in known]
        number = 0
        for batch in table.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row


def column(row: Mapping[str, Any], names: Iterable[str], what: str, where: str) -> str:
    """The first of the names that has a value, or that is there at all. Raises DataError."""
    there = [name for name in names if name in row]
    for name in there:
        if row[name] is not None:
            return name
    if there:
        return there[0]
    raise DataError(
        f"{where} has no column with {what}: expected one of {', '.join(names)}; found {', '.join(row)}."
    )


def texts(value: object) -> list[str]:
    """A caption, a list of them or none, as a list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    raise TypeError(f"expected a caption or a list of captions, got {type(value).__name__}")
