"""Rows of a table in any file format, each with the place that a message names it by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from xattn.datasets.base import SkippedEntry, reading, reason_of, shortened
from xattn.datasets.text import NOT_UTF8, decode, open_text
from xattn.errors import DataError


class Row(NamedTuple):
    """values: column → value"""

    where: str
    values: Mapping[str, Any]


def json_rows(path: Path) -> Iterator[Row | SkippedEntry]:
    """Objects of a .jsonl or .json file, whichever of the two forms it holds.

    One object a line; or one list of objects; or an object that holds such a list ("data", "images", …); or
    an object of picture → caption or captions. Raises DataError if it is none of these.
    """
    if path.suffix.lower() != ".json":
        with reading(str(path)), open_text(path) as file:
            start = next((line for line in file if line.strip()), "")
        if not start.lstrip().startswith("["):
            yield from _lines(path)
            return
    with reading(str(path)):
        text = decode(path.read_bytes())
        try:
            content = json.loads(text)
        except ValueError:
            if not _begins_with_an_object(text):
                raise
            content = None
    if content is None:
        yield from _lines(path)
    else:
        yield from rows_of(content, path)


def rows_of(content: object, path: Path) -> Iterator[Row | SkippedEntry]:
    """`json_rows` of a parsed file."""
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list) and _holds_objects(value)]
        if len(lists) == 1:
            content = lists[0]
        elif content and all(isinstance(value, str | list) for value in content.values()):
            for number, (name, captions) in enumerate(content.items(), 1):
                yield Row(f"{path}, entry {number}", {"image": name, "captions": captions})
            return
    if not isinstance(content, list):
        raise DataError(
            f"{path} cannot be read: expected a list of objects with a picture and captions, an object of "
            f"picture → captions, one object a line (JSON Lines), or COCO's form; got {shortened(content)}."
        )
    for number, entry in enumerate(content, 1):
        yield _row(f"{path}, entry {number}", entry)


def _lines(path: Path) -> Iterator[Row | SkippedEntry]:
    with reading(str(path)), open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = NOT_UTF8 if not _is_encodable(line) else f"it is not JSON: {reason_of(error)}"
                yield SkippedEntry(where, reason)
                continue
            yield _row(where, entry)


def _row(where: str, entry: object) -> Row | SkippedEntry:
    if isinstance(entry, dict):
        return Row(where, entry)
    return SkippedEntry(where, f"expected an object, got {type(entry).__name__}")


def _begins_with_an_object(text: str) -> bool:
    """Whether the first line is an object of its own: JSON Lines under the name .json."""
    first = text.lstrip().partition("\n")[0]
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _holds_objects(values: list[object]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
