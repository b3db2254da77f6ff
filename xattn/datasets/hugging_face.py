"""Hugging Face datasets: a folder that `save_to_disk` wrote, or `hf:NAME` from the hub, when asked for so.

The column of pictures is the one of that type, else one called as in a table; captions are found by name,
as in a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xattn.datasets.base import reading
from xattn.datasets.tables import CAPTION_COLUMNS, PICTURE_COLUMNS, column, texts
from xattn.datasets.unpacked import Packed, unpacked
from xattn.errors import DataError, MissingExtra

PREFIX = "hf:"


def is_hugging_face(source: str) -> bool:
    folder = Path(source)
    saved = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return source.startswith(PREFIX) or saved or (folder / "dataset_dict.json").is_file()


def unpack_hugging_face(source: str) -> Path:
    """Writes the pictures out (see `unpacked`). Raises MissingExtra or DataError.

    The only place where a dataset is downloaded: `hf:NAME` asks for it by name.
    """
    if find_spec("datasets") is None:
        raise MissingExtra("datasets", "data", f"reading {source}")
    library: Any = import_module("datasets")
    try:
        if source.startswith(PREFIX):
            found = library.load_dataset(source.removeprefix(PREFIX))
        else:
            found = library.load_from_disk(source)
    except Exception as error:  # of the network, the hub, Arrow: whatever goes wrong underneath
        raise DataError(f"{source} cannot be read: {error}") from error
    parts = dict(found) if isinstance(found, dict) else {None: found}
    identity = [f"{source}:{split}:{part.num_rows}:{part._fingerprint}" for split, part in parts.items()]
    folder = None if source.startswith(PREFIX) else Path(source)
    return unpacked("\n".join(identity), _pictures(source, folder, parts))


def _pictures(source: str, folder: Path | None, parts: dict[str | None, Any]) -> Iterator[Packed]:
    image_type: Any = import_module("datasets").Image
    for split, part in parts.items():
        typed = [name for name, kind in part.features.items() if isinstance(kind, image_type)]
        for name in typed:
            part = part.cast_column(name, image_type(decode=False))
        for number, row in enumerate(part):
            where = f"{source}{f', {split}' if split else ''}, row {number}"
            picture = typed[0] if typed else column(row, PICTURE_COLUMNS, "a picture", where)
            with reading(where):
                captions = texts(row[column(row, CAPTION_COLUMNS, "a caption", where)])
                yield _packed(row[picture], f"{split or 'row'}-{number}", folder, captions, split)


def _packed(value: Any, name: str, folder: Path | None, captions: list[str], split: str | None) -> Packed:
    content, path = (value["bytes"], value["path"]) if isinstance(value, dict) else (None, value)
    if content is None and not isinstance(path, str):
        raise TypeError(f"expected a picture or its path, got {type(value).__name__}")
    if content is None:
        return Packed(name, (folder or Path()) / path, captions, split)
    return Packed(f"{name}-{Path(path).name}" if path else name, content, captions, split)
