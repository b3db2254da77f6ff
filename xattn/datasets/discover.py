"""Which files of a folder describe its pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from xattn.datasets import sidecars
from xattn.datasets.base import reading
from xattn.datasets.columns import match_columns
from xattn.datasets.folder import is_about_folder
from xattn.datasets.separated import FREE_TEXT_SUFFIXES, form_of
from xattn.datasets.tables import JSON_SUFFIXES, SUFFIXES, is_table
from xattn.errors import DataError

USUAL_NAMES = ("metadata", "captions")
"""A table of this name describes the folder it is in, whatever else is there."""

SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")
"""They may hold captions and are not read."""

_START = 4096
_DESCRIBES_PICTURES = re.compile(
    r'"(caption\w*|file_?name|image\w*|annotations)"|\.(jpe?g|png|webp)\b', re.I
)


class Described(NamedTuple):
    """What in a folder may describe pictures.

    usual:        the table whose name says so
    others:       other tables
    spreadsheets: files that would have to be saved as CSV
    num_sidecars: files of captions beside pictures of the folder itself
    """

    usual: Path | None
    others: list[Path]
    spreadsheets: list[Path]
    num_sidecars: int


def describing_files(folder: Path) -> Described:
    """Looks at the folder itself, not below it; opens only what may be text about anything."""
    with reading(str(folder)):
        files = sorted(path for path in folder.iterdir() if not is_about_folder(path) and path.is_file())
    names = [path.name for path in files]
    owned = sidecars.pictures_of(
        [name for name in names if sidecars.is_sidecar(name)],
        [name for name in names if sidecars.is_picture(name)],
    )
    tables = [path for path in files if is_table(path) and not owned.get(path.name) and _is_about(path)]
    usual = sorted(
        (path for path in tables if path.stem.lower() in USUAL_NAMES),
        key=lambda path: (
            USUAL_NAMES.index(path.stem.lower()),
            SUFFIXES.index(path.suffix.lower()),
        ),
    )
    first = usual[0] if usual else None
    sheets = [path for path in files if path.suffix.lower() in SPREADSHEETS]
    return Described(
        first, [path for path in tables if path != first], sheets, sum(map(bool, owned.values()))
    )


def _is_about(path: Path) -> bool:
    """Whether a table describes pictures, as far as its first bytes tell. Tables of a clear ending do."""
    suffix = path.suffix.lower()
    try:
        if suffix in FREE_TEXT_SUFFIXES:
            form = form_of(path)
            return form is not None and bool(match_columns(form.header).pictures)
        if suffix in JSON_SUFFIXES:
            with path.open("rb") as file:
                start = file.read(_START)
            return _DESCRIBES_PICTURES.search(start.decode("utf-8", "replace")) is not None
    except (DataError, OSError):
        return False
    return True


def parquet_parts(folder: Path, described: Described) -> list[Path]:
    """Parquet files that are one dataset: in the folder or, as the Hugging Face hub has it, in "data"."""
    for files in (described.others, sorted((folder / "data").glob("*.parquet"))):
        if files and all(path.suffix.lower() == ".parquet" for path in files):
            return files
    return []


def advice(folder: Path, described: Described) -> str:
    """What a message adds about files that may hold the captions; empty if there are none."""
    said = []
    if described.others:
        tables = ", ".join(path.name for path in described.others)
        said.append(f"It has tables: {tables}; give one of them, for example {described.others[0]}.")
    if described.spreadsheets:
        sheets = ", ".join(path.name for path in described.spreadsheets)
        said.append(f"Spreadsheets cannot be read ({sheets}): save them as CSV.")
    above = _tables_above(folder)
    if above:
        said.append(f"A table is in the folder above: {', '.join(str(path) for path in above)}.")
    return "".join(f" {sentence}" for sentence in said)


def _tables_above(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.resolve().parent.iterdir()) if _may_describe(path, folder)]
    except OSError:  # of a folder that may not be listed nothing can be said
        return []


def _may_describe(path: Path, folder: Path) -> bool:
    """Whether a file beside the folder is a table about its pictures, by its name or its first line."""
    if not is_table(path) or is_about_folder(path) or not path.is_file():
        return False
    named = path.stem.lower() in (*USUAL_NAMES, folder.resolve().name.lower())
    return named and _is_about(path)
