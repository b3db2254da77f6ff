"""PNG files without what is written beside the picture."""

from __future__ import annotations

import io
import struct
from typing import IO

_SIGNATURE_BYTES = 8
_AROUND_BODY = 12  # length and kind before, checksum behind
_TEXT = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
_MAX_TEXT_BYTES = 1 << 16
"""Of one chunk. Enough for XMP that tells the orientation."""
_MAX_ALL_TEXT_BYTES = 1 << 20
_NOT_COMPRESSED = b"\0\0"


def without_metadata(file: IO[bytes]) -> IO[bytes]:
    """The file as it would be without large or compressed texts and colour profiles.

    Decoding needs none of them, but Pillow unpacks them and refuses the picture where they are large. Here
    nothing is unpacked or copied.

    A file whose chunks do not add up is returned as it is, for the decoder to refuse.
    Source: PNG (third edition) §5.3, §11.3.
    """
    size = file.seek(0, io.SEEK_END)
    ranges = [(0, _SIGNATURE_BYTES)]
    text_bytes, at = 0, _SIGNATURE_BYTES
    while at + _AROUND_BODY <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        end = at + _AROUND_BODY + length
        if end > size:
            break
        if kind in _TEXT and (
            _is_compressed(kind, file)
            or length > _MAX_TEXT_BYTES
            or text_bytes + length > _MAX_ALL_TEXT_BYTES
        ):
            pass
        elif ranges[-1][1] == at:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((at, end))
        text_bytes += length if kind in _TEXT else 0
        at = end
        if kind == b"IEND":
            break
    if ranges[-1][1] == at:  # with what follows the chunks, or is not one
        ranges[-1] = (ranges[-1][0], size)
    else:
        ranges.append((at, size))
    file.seek(0)
    return file if len(ranges) == 1 else io.BufferedReader(_Ranges(file, ranges))


def _is_compressed(kind: bytes, file: IO[bytes]) -> bool:
    """file: at the body of a text chunk."""
    if kind != b"iTXt":
        return kind != b"tEXt"
    body = file.read(82)  # keyword of up to 79 bytes, its end, flag, method
    keyword_end = body.find(b"\0")
    return keyword_end < 0 or not body.startswith(_NOT_COMPRESSED, keyword_end)


class _Ranges(io.RawIOBase):
    """Some ranges of a file, one after another."""

    mode = "rb"  # which makes a BufferedReader of it an IO[bytes]

    def __init__(self, file: IO[bytes], ranges: list[tuple[int, int]]) -> None:
        self.name = getattr(file, "name", "")
        self._file = file
        self._ranges = ranges
        self._size = sum(end - start for start, end in ranges)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as BufferedReader calls it
        before = 0
        for start, end in self._ranges:
            place = start + self._at - before
            if place < end:
                self._file.seek(place)
                data = self._file.read(min(len(buffer), end - place))
                buffer[: len(data)] = data
                self._at += len(data)
                return len(data)
            before += end - start
        return 0
