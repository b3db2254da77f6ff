"""Hugging Face datasets: a folder that `save_to_disk` wrote, or `hf:NAME` from the hub, when asked for so.

The column of pictures is the one of that type, else one called as in a table; captions are found by name,
as in a table.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xattn.datasets.columns import first_value, require_columns
from xattn.datasets.text import captions_in
from xattn.datasets.unpacked import Unpacking, unpacked
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
            loaded = library.load_dataset(source.removeprefix(PREFIX))
        else:
            loaded = library.load_from_disk(source)
    except Exception as error:  # of the network, the hub, Arrow: whatever goes wrong underneath
        raise DataError(f"{source} cannot be read: {error}") from error
    parts = dict(loaded) if isinstance(loaded, dict) else {None: loaded}
    identity = [f"{source}:{split}:{part.num_rows}:{part._fingerprint}" for split, part in parts.items()]
    folder = Path() if source.startswith(PREFIX) else Path(source)

    def fill(unpacking: Unpacking) -> None:
        for split, part in parts.items():
            _add_part(part, split, source, folder, unpacking)

    return unpacked("\n".join(identity), fill)


def _add_part(part: Any, split: str | None, source: str, folder: Path, unpacking: Unpacking) -> None:
    image_type: Any = import_module("datasets").Image
    typed = tuple(name for name, kind in part.features.items() if isinstance(kind, image_type))
    for name in typed:
        part = part.cast_column(name, image_type(decode=False))
    columns = require_columns([*part.features, *(["image"] if typed else [])], source)
    for number, row in enumerate(unpacking.tally.counted(part), 1):
        where = f"{source}{f', {split}' if split else ''}, row {number}"
        with unpacking.tally.using(where, split=split):
            captions = captions_in(first_value(row, columns.captions))
            value = first_value(row, typed or columns.pictures)
            unpacking.add_value(
                value,
                f"{split or 'row'}-{number}",
                folder=folder,
                origin=where,
                captions=captions,
                split=split,
            )
