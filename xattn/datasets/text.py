"""Text in files of a dataset: UTF-8, or what a byte order mark says. Others are named, not guessed."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

NOT_UTF8 = (
    'the text is not UTF-8: save the file as UTF-8 (in Excel: "CSV UTF-8"), or convert it, for example '
    "with iconv -f WINDOWS-1252 -t UTF-8"
)

# The longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LONGEST_MARK = 4
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def encoding_of(start: bytes) -> tuple[str, int]:
    """(encoding, length of the mark) by the first bytes of a file."""
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding, len(mark)
    return "utf-8", 0


def decode(content: bytes) -> str:
    """The text, without its mark. Bytes that are not UTF-8 become what `require_text` refuses (PEP 383).

    Raises UnicodeDecodeError for text that is not in the encoding of its mark.
    """
    encoding, length = encoding_of(content[:_LONGEST_MARK])
    return content[length:].decode(encoding, _errors(encoding))


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """As `decode`, line by line; line ends are left as they are."""
    with path.open("rb") as file:
        yield text_stream(file)


def text_stream(file: BinaryIO) -> io.TextIOWrapper:
    encoding, length = encoding_of(file.read(_LONGEST_MARK))
    file.seek(length)
    return io.TextIOWrapper(file, encoding=encoding, errors=_errors(encoding), newline="")


def require_text(text: str) -> str:
    """The text itself. Raises ValueError if it is no text that can be written down again."""
    if _ESCAPED_BYTE.search(text):
        raise ValueError(NOT_UTF8)
    if _SURROGATE.search(text):
        raise ValueError("the text holds half of a surrogate pair, which is no character")
    if "\0" in text:
        raise ValueError("the text holds a NUL character; if the file is UTF-16, save it as UTF-8")
    return text


def captions_in(value: object) -> list[str]:
    """A caption, a list of captions or null, as a list. Raises TypeError or ValueError for others."""
    if value is None:
        return []
    if isinstance(value, str):
        return [require_text(value)]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return [require_text(text) for text in value]
    held = ""
    if isinstance(value, list):
        held = " that holds " + next(type(text).__name__ for text in value if not isinstance(text, str))
    raise TypeError(
        f"expected captions to be a string or a list of strings, got {type(value).__name__}{held}"
    )


def _errors(encoding: str) -> str:
    # The handler can stand for single bytes only, which other encodings do not have.
    return "surrogateescape" if encoding == "utf-8" else "strict"
