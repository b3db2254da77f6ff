"""Rows of Parquet files, with paths of pictures or the pictures themselves; files may be parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xattn.datasets.base import SkippedEntry, reading, split_name
from xattn.datasets.columns import match_columns, require_columns
from xattn.datasets.rows import Row
from xattn.datasets.splits import split_of
from xattn.datasets.text import captions_in
from xattn.datasets.unpacked import Unpacking, file_identity, unpacked
from xattn.errors import MissingExtra

PICTURE, CAPTIONS, SPLIT = "image", "captions", "split"
"""What rows call their columns, whatever the file calls them."""

_BATCH = 32
"""Rows read at a time: pictures may have megabytes each."""


def parquet_rows(path: Path) -> Iterator[Row | SkippedEntry]:
    """Rows with PICTURE, CAPTIONS and SPLIT; without a column of splits, that of the file's name.

    Raises MissingExtra without pyarrow, DataError if the file cannot be read or has no such columns.
    """
    with reading(str(path)):
        table = _opened(path)
        columns = _columns(path, table)
        named = split_of(path.name)
        number = 0
        for batch in table.iter_batches(batch_size=_BATCH, columns=list(columns.values())):
            for row in batch.to_pylist():
                number += 1
                values = {key: row[name] for key, name in columns.items()}
                yield Row(f"{path}, row {number}", {SPLIT: named, **values})


def holds_pictures(path: Path) -> bool:
    """Whether pictures lie in the file, and not only their paths. Raises as `parquet_rows`."""
    with reading(str(path)):
        table = _opened(path)
        return _is_picture_type(table.schema_arrow.field(_columns(path, table)[PICTURE]).type)


def unpack_parquet(files: Sequence[Path]) -> Path:
    """Writes the pictures out (see `unpacked`). Raises as `parquet_rows`."""

    def fill(unpacking: Unpacking) -> None:
        for file in files:
            for number, row in enumerate(unpacking.tally.counted(parquet_rows(file))):
                split = split_name(row.values[SPLIT])
                with unpacking.tally.using(row.where, split=split):
                    captions = captions_in(row.values[CAPTIONS])
                    name = f"{split or 'row'}-{number}"
                    unpacking.add_value(
                        row.values[PICTURE],
                        name,
                        folder=file.parent,
                        origin=row.where,
                        captions=captions,
                        split=split,
                    )

    return unpacked("\n".join(map(file_identity, files)), fill)


def _opened(path: Path) -> Any:
    if find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow", "data", f"reading {path.name}")
    parquet: Any = import_module("pyarrow.parquet")
    return parquet.ParquetFile(str(path))


def _columns(path: Path, table: Any) -> dict[str, str]:
    """What a row holds → the column of it: pictures before paths of them; a type may say so, too."""
    schema = table.schema_arrow
    inside = [field.name for field in schema if _is_picture_type(field.type)]
    known = match_columns(tuple(schema.names))
    preferred = [name for name in known.pictures if name in inside]
    structs = [name for name in inside if _is_struct(schema.field(name).type)]
    pictures = [*preferred, *structs, *known.pictures]
    if not pictures or not known.captions:
        require_columns([*(name for name in structs), *schema.names], str(path))
    columns = {PICTURE: pictures[0], CAPTIONS: known.captions[0]}
    return {**columns, SPLIT: known.splits[0]} if known.splits else columns


def _is_picture_type(kind: Any) -> bool:
    types: Any = import_module("pyarrow.types")
    return types.is_binary(kind) or types.is_large_binary(kind) or _is_struct(kind)


def _is_struct(kind: Any) -> bool:
    """{bytes, path}, as Hugging Face's datasets write pictures."""
    types: Any = import_module("pyarrow.types")
    return types.is_struct(kind) and kind.get_field_index("bytes") >= 0
