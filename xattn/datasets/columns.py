"""Which columns of a table hold pictures, captions and splits, and which file a picture's name means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from xattn import images
from xattn.datasets.text import require_text
from xattn.errors import DataError

PICTURE_COLUMNS = (
    *("image", "file_name", "file", "path", "file_path", "image_path", "image_name", "image_file"),
    *("image_filename", "picture", "photo", "img", "jpg", "jpeg", "png", "webp"),
)
CAPTION_COLUMNS = (
    *("captions", "caption", "text", "title", "description", "sentences", "sentence", "comment", "txt"),
)
SPLIT_COLUMNS = ("split",)
"""Names of columns, the preferred ones first. Capitals, blanks, "_" and "-" make no difference."""


class Columns(NamedTuple):
    """Names as the table spells them, the preferred ones first."""

    pictures: tuple[str, ...]
    captions: tuple[str, ...]
    splits: tuple[str, ...]


@lru_cache(64)
def match_columns(names: tuple[str, ...]) -> Columns:
    """
    >>> match_columns(("Image Path", "fileName", "comment_number", " Comment"))
    Columns(pictures=('fileName', 'Image Path'), captions=(' Comment',), splits=())
    """
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(_normal(name), []).append(name)
    groups = (
        tuple(name for known in group for name in spelled.get(_normal(known), ()))
        for group in (PICTURE_COLUMNS, CAPTION_COLUMNS, SPLIT_COLUMNS)
    )
    return Columns(*groups)


def require_columns(names: Iterable[str], where: str) -> Columns:
    """Raises DataError if no column holds pictures or none holds captions."""
    given = tuple(names)
    columns = match_columns(given)
    for matched, known, what in (
        (columns.pictures, PICTURE_COLUMNS, "a picture"),
        (columns.captions, CAPTION_COLUMNS, "a caption"),
    ):
        if not matched:
            raise DataError(
                f"{where} has no column with {what}: expected one of {', '.join(known)}; "
                f"found {', '.join(given)}."
            )
    return columns


def first_value(row: Mapping[str, Any], columns: Iterable[str]) -> Any:
    """The first value that is there; None if there is none."""
    values = (row.get(name) for name in columns)
    return next((value for value in values if value is not None and value != ""), None)


def picture_name(value: object) -> str:
    """The name of a picture as a row gives it. Raises TypeError or ValueError if it is none."""
    if value is None or value == "":
        raise ValueError("it names no picture")
    if not isinstance(value, str):
        raise TypeError(f"expected the path of a picture, got {type(value).__name__}")
    name = _CAPTION_NUMBER.sub("", require_text(value.strip()))
    if not name:
        raise ValueError("it names no picture")
    if _URL.match(name):
        raise ValueError(f"{name} is a URL: download the pictures first, for example with img2dataset")
    return name


def picture_path(folder: Path, name: str) -> Path:
    """The file that a name means; a path of Windows with backslashes is understood everywhere."""
    path = folder / name
    if "\\" in name and not is_file(path):
        return folder / name.replace("\\", "/")
    return path


def is_file(path: Path) -> bool:
    """As `Path.is_file`, for names that no file can have, too."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def looks_like_picture(name: str) -> bool:
    suffix = PurePosixPath(_CAPTION_NUMBER.sub("", name.strip())).suffix.lower()
    return suffix in images.EXTENSIONS or suffix in images.UNREADABLE_EXTENSIONS


def _normal(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_CAPTION_NUMBER = re.compile(r"(?<=\w)#\d+$")
"""Flickr8k numbers the captions of a picture: dog.jpg#0."""
