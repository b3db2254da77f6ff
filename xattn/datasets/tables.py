"""Tables with a picture and captions in each row: .csv .tsv .jsonl .json .parquet, Flickr8k's lists.

Columns are found by name (`columns`); rows of one picture are joined. Paths of pictures are relative to the
table, as in Hugging Face's metadata.csv, or to a folder beside it that holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xattn.datasets.base import Dataset, Record, SkippedEntry, Tally, count_blank, distinct, split_name
from xattn.datasets.columns import first_value, is_file, picture_name, picture_path, require_columns
from xattn.datasets.parquet import holds_pictures, parquet_rows, unpack_parquet
from xattn.datasets.rows import Row, json_rows
from xattn.datasets.separated import FREE_TEXT_SUFFIXES, separated_rows
from xattn.datasets.text import captions_in
from xattn.datasets.unpacked import read_unpacked
from xattn.errors import DataError

SEPARATED_SUFFIXES = (".csv", ".tsv", ".tab", ".psv", *FREE_TEXT_SUFFIXES)
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*SEPARATED_SUFFIXES, *JSON_SUFFIXES, ".parquet")
"""Lower case."""

_MOST_EXAMPLES = 100
"""Rows by which the folder of the pictures is found."""


def is_table(path: Path) -> bool:
    """By its ending."""
    return path.suffix.lower() in SUFFIXES


def table_rows(path: Path) -> Iterator[Row | SkippedEntry]:
    """Raises DataError if the file cannot be read as a table at all."""
    suffix = path.suffix.lower()
    return json_rows(path) if suffix in JSON_SUFFIXES else separated_rows(path)


def read_table(path: Path, pictures: Path | str | None) -> Dataset:
    """Rows that cannot be read are in `skipped`. Raises DataError if the table as a whole cannot be."""
    if path.suffix.lower() == ".parquet":
        return read_parquet([path], pictures)
    return dataset_of(table_rows(path), path, pictures)


def read_parquet(files: Sequence[Path], pictures: Path | str | None) -> Dataset:
    """Parts of one dataset. Pictures that lie in them are written out to the cache."""
    if any(map(holds_pictures, files)):
        return replace(read_unpacked(unpack_parquet(files)), name=files[0].stem)
    rows = (row for file in files for row in parquet_rows(file))
    return dataset_of(rows, files[0], pictures)


@dataclass(slots=True)
class _Captioned:
    name: str
    split: str | None
    captions: list[str] = field(default_factory=list)


def dataset_of(rows: Iterable[Row | SkippedEntry], path: Path, pictures: Path | str | None) -> Dataset:
    """Joins rows to records. `path` names the dataset; pictures are looked for beside it."""
    tally = Tally()
    joined: dict[tuple[str, str | None], _Captioned] = {}
    for row in tally.counted(rows):
        with tally.using(row.where):
            columns = require_columns(row.values, "it")
            split = split_name(first_value(row.values, columns.splits))
            name = picture_name(first_value(row.values, columns.pictures))
            captions = captions_in(_caption(row, columns.captions))
            joined.setdefault((name, split), _Captioned(name, split)).captions.extend(captions)
    if not tally.num_entries:
        raise DataError(f"{path} is empty.")
    names = [entry.name for entry in joined.values()]
    folder = picture_folder(path.parent, names) if pictures is None else Path(pictures)
    records = (
        Record(
            id=entry.name,
            image=picture_path(folder, entry.name),
            captions=distinct(entry.captions),
            num_blank=count_blank(entry.captions),
            split=entry.split,
        )
        for entry in joined.values()
    )
    return tally.dataset(path.stem, records, path)


def _caption(row: Row, columns: tuple[str, ...]) -> object:
    value = first_value(row.values, columns)
    return row.values.get(columns[0]) if value is None else value


def picture_folder(beside: Path, names: Iterable[str]) -> Path:
    """The folder that names of pictures are relative to: `beside`, or the one in it with most of them."""
    examples = [name for name, _ in zip(names, range(_MOST_EXAMPLES), strict=False)]

    def num_files(folder: Path) -> int:
        return sum(is_file(picture_path(folder, name)) for name in examples)

    if num_files(beside):
        return beside
    folders = sorted(folder for folder in beside.iterdir() if folder.is_dir()) if beside.is_dir() else []
    return max(folders, key=num_files) if any(map(num_files, folders)) else beside
