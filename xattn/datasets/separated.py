"""Rows of text files with separated columns: CSV, TSV and what is called so.

The separator is taken from the first line, not from the ending. Quotes follow RFC 4180 where a row can be
read so; a quote that is opened and never closed is a character. A row that cannot be read is named, and
reading goes on with the next one.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from xattn.datasets.base import SkippedEntry, reading
from xattn.datasets.columns import looks_like_picture, match_columns, require_columns
from xattn.datasets.rows import Row
from xattn.datasets.text import open_text, require_text

SEPARATORS = ("\t", ",", ";", "|")
FREE_TEXT_SUFFIXES = (".txt", ".token")
"""Lists of captions without quotes: of two columns the second is the rest of the line."""

_MOST_LINES = 1000
"""In one quoted field; a quote that is not closed within is a character."""
_FIELD_LIMIT = 2**31 - 1
"""The csv module refuses fields above 131,072 characters by default."""
_SEPARATOR_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)
"""Excel writes it before the header."""
_ESCAPED = re.compile(r'\\(["\\])')


@dataclass(frozen=True, slots=True)
class Form:
    """How a file of separated columns is written.

    rest_in_last: the last column is the rest of the line; has_header: whether the first line names them
    """

    separator: str
    header: tuple[str, ...]
    rest_in_last: bool = False
    has_header: bool = True

    def looks_like_row(self, fields: Sequence[str]) -> bool:
        """Whether fields resemble a row so much that they are hardly a part of a caption."""
        places = [self.header.index(name) for name in match_columns(self.header).pictures]
        return len(fields) == len(self.header) and any(
            looks_like_picture(fields[place]) for place in places
        )


class _Line(NamedTuple):
    number: int
    text: str


def separated_rows(path: Path) -> Iterator[Row | SkippedEntry]:
    """Raises DataError if the file cannot be read or it has no column of pictures or captions."""
    form = form_of(path)
    if form is None:
        return
    if form.has_header:
        require_columns(form.header, str(path))
    with reading(str(path)), open_text(path) as file:
        lines = (_Line(number, text) for number, text in enumerate(file, 1))
        for number, (line, parsed) in enumerate(_rows(_body(lines, form), form), 1):
            where = f"{path}, row {number} (line {line})"
            if isinstance(parsed, str):
                yield SkippedEntry(where, parsed)
            else:
                yield Row(where, dict(zip(form.header, parsed, strict=True)))


def form_of(path: Path) -> Form | None:
    """How the file is written; None if it is empty.

    Without known columns in the first line it is a header all the same, unless it begins or ends with the
    name of a picture: then there is no header.
    """
    with reading(str(path)), open_text(path) as file:
        lines = (line for line in file if line.strip())
        first = next(lines, None)
        given = _SEPARATOR_LINE.fullmatch(first) if first is not None else None
        if given is not None:
            first = next(lines, None)
    if first is None:
        return None
    if "\0" in first:
        with reading(str(path)):
            require_text(first)
    free = path.suffix.lower() in FREE_TEXT_SUFFIXES
    separator = given[1] if given is not None else _separator(first, free)
    fields = _quoted(first, separator) or _plain(first, separator, rest_in_last=False)
    header = tuple(_unique(fields))
    form = Form(separator, header, rest_in_last=free and len(header) == 2)
    if match_columns(header).pictures:
        return form
    if free:
        fields = _plain(first, separator, rest_in_last=True)
    columns = _columns_of(fields)
    if columns is None:
        return form
    return Form(separator, columns, rest_in_last=free and len(columns) == 2, has_header=False)


def _columns_of(fields: Sequence[str]) -> tuple[str, ...] | None:
    """Names of columns by what is in the first row; None if that does not tell."""
    pictures = [place for place, value in enumerate(fields) if looks_like_picture(value)]
    if len(pictures) != 1 or len(fields) not in (2, 3):
        return None
    others = [place for place in range(len(fields)) if place not in pictures]
    if len(others) == 2 and not fields[others[0]].strip().isdigit():
        return None
    names = {pictures[0]: "image", others[-1]: "caption"}
    return tuple(names.get(place, "number") for place in range(len(fields)))


def _separator(first: str, free: bool) -> str:
    if not free:
        return max(SEPARATORS, key=first.count)
    for separator in (*SEPARATORS, " "):
        start = _plain(first, separator, rest_in_last=True)[0]
        if separator in first and (looks_like_picture(start) or match_columns((start,)).pictures):
            return separator
    return max(SEPARATORS, key=first.count)


def _body(lines: Iterable[_Line], form: Form) -> Iterator[_Line]:
    """The lines below the header."""
    is_header = form.has_header
    for line in lines:
        if not is_header:
            yield line
        elif line.text.strip() and not _SEPARATOR_LINE.fullmatch(line.text):
            is_header = False


def _rows(source: Iterator[_Line], form: Form) -> Iterator[tuple[int, list[str] | str]]:
    """(number of the line, fields, or why they cannot be read) of each row; spreadsheets leave rows without
    a value, and tables put together repeat their header: neither is a row."""
    ahead: deque[_Line] = deque()
    while (line := ahead.popleft() if ahead else next(source, None)) is not None:
        quoted = _quoted(line.text, form.separator)
        if _is_empty(line.text, form) or _is_header(quoted, form):
            continue
        if form.rest_in_last:
            rest = _plain(line.text, form.separator, rest_in_last=True)
            yield line.number, _fitted(quoted if quoted and len(quoted) == 2 else rest, form)
            continue
        fields: list[str] | str | None = quoted
        if fields is None and _is_open(line.text, form.separator):
            fields = _joined(line, ahead, source, form)
        if fields is None:
            plain = _plain(line.text, form.separator, rest_in_last=False)
            fields = _backslashed(line.text, form.separator) or plain
        yield line.number, fields if isinstance(fields, str) else _fitted(fields, form)


def _is_empty(text: str, form: Form) -> bool:
    return not text.strip(form.separator + " \t\r\n")


def _is_header(fields: list[str] | None, form: Form) -> bool:
    if not form.has_header or not fields or fields[0].strip() != form.header[0]:
        return False
    return tuple(_unique(fields)) == form.header


def _joined(
    line: _Line, ahead: deque[_Line], source: Iterator[_Line], form: Form
) -> list[str] | str | None:
    """The fields of a row that goes on in the next lines; None if its open quote is a character.

    Lines that were looked at and are not of this row are left in `ahead`; a message comes instead of the
    fields where they could be rows of their own.
    """
    text, taken = line.text, list[_Line]()
    fields: list[str] | None = None
    while len(taken) < _MOST_LINES and (following := _next(ahead, source, len(taken))) is not None:
        taken.append(following)
        text += following.text
        if '"' in following.text:
            fields = _quoted(text, form.separator)
            if fields is not None or not _is_open(text, form.separator):
                break
    if fields is None:
        return None
    if any(form.looks_like_row(_plain(other.text, form.separator, rest_in_last=False)) for other in taken):
        return (
            f"a quote opens here and closes only in line {taken[-1].number}, after lines that look like "
            'rows; close the quote, or write it twice ("") inside a quoted caption'
        )
    for _ in taken:
        ahead.popleft()
    return fields


def _next(ahead: deque[_Line], source: Iterator[_Line], place: int) -> _Line | None:
    """The line at a place of the lines ahead, which are read as needed."""
    if place == len(ahead):
        line = next(source, None)
        if line is None:
            return None
        ahead.append(line)
    return ahead[place]


def _quoted(text: str, separator: str) -> list[str] | None:
    """Fields by the rules of quoting; None if the text does not follow them."""
    return _csv(text, separator)[0]


def _backslashed(text: str, separator: str) -> list[str] | None:
    """As `_quoted`, where quotes inside of quotes are written with a backslash, and not twice."""
    return _quoted(_ESCAPED.sub(_doubled, text), separator) if '\\"' in text else None


def _doubled(escaped: re.Match[str]) -> str:
    return '""' if escaped[1] == '"' else escaped[1]


def _is_open(text: str, separator: str) -> bool:
    """Whether the text ends inside of a quoted field."""
    return _csv(text, separator)[1]


def _csv(text: str, separator: str) -> tuple[list[str] | None, bool]:
    """(fields or None, whether the text ended inside of a quoted field)"""
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        rows = list(csv.reader([text], delimiter=separator, strict=True))
    except csv.Error as error:
        return None, "unexpected end of data" in str(error)
    finally:
        csv.field_size_limit(before)
    return (rows[0], False) if len(rows) == 1 else (None, False)


def _plain(text: str, separator: str, *, rest_in_last: bool) -> list[str]:
    """Fields where quotes are characters."""
    return text.strip("\r\n").split(separator, 1 if rest_in_last else -1)


def _fitted(fields: list[str], form: Form) -> list[str] | str:
    """Without blanks at the ends and empty fields after the last column; a message if too few or many."""
    width = len(form.header)
    stripped = [field.strip() for field in fields]
    while len(stripped) > width and not stripped[-1]:
        stripped.pop()
    if len(stripped) == width:
        return stripped
    return (
        f"it has {len(stripped)} fields, not {width} as the first line has; put a caption that holds "
        f"{form.separator!r} or a quote between quotes"
    )


def _unique(names: Iterable[str]) -> list[str]:
    """Column names without blanks; a name that comes again is numbered, an empty one, too."""
    unique: list[str] = []
    for place, name in enumerate(names):
        stripped = name.strip()
        unique.append(stripped if stripped and stripped not in unique else f"{stripped}#{place}")
    return unique
