"""Files in a tar archive, read from its beginning to its end. Damage is named; reading goes on after it.

The standard library takes a damaged header for the end of the archive, in silence.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from xattn.datasets.base import SkippedEntry

_COMPRESSIONS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
)
_LONGEST_MAGIC = 6
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20


@runtime_checkable
class Readable(Protocol):
    """Any stream of bytes. `read` returns fewer than asked for only where the stream is slow or ends."""

    def read(self, size: int = -1, /) -> bytes: ...


class Member(NamedTuple):
    name: str
    content: bytes


def members(
    file: Readable, where: str, wanted: Callable[[str], bool], unwanted: Callable[[str], None]
) -> Iterator[Member | SkippedEntry]:
    """The files whose names are `wanted`; `unwanted` is called with other names.

    file: its compression, if any, is recognised by its first bytes
    where: how messages call the archive
    """
    try:
        plain = _decompressed(_Forward(file))
        if plain is None:
            yield SkippedEntry(where, "it is compressed by Zstandard, which cannot be read: use gzip")
            return
        yield from _Reader(plain, where, wanted, unwanted).members()
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        yield SkippedEntry(where, f"the compressed data is damaged or cut off: {error}")


class _Forward:
    """A stream that can only be read on, with the `seek` and `tell` that tarfile needs."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._place = 0
        self._put_back = b""

    def read(self, size: int) -> bytes:
        content, self._put_back = self._put_back[:size], self._put_back[size:]
        while len(content) < size and (more := self._file.read(size - len(content))):
            content += more
        self._place += len(content)
        return content

    def put_back(self, content: bytes) -> None:
        """What was read last is read again."""
        self._put_back = content + self._put_back
        self._place -= len(content)

    def tell(self) -> int:
        return self._place

    def seek(self, place: int) -> None:
        while self._place < place and self.read(min(place - self._place, _CHUNK)):
            pass


def _decompressed(stream: _Forward) -> _Forward | None:
    """None if it is compressed in a way that cannot be read."""
    start = stream.read(_LONGEST_MAGIC)
    stream.put_back(start)
    if start.startswith(_ZSTANDARD):
        return None
    opener = next((opener for magic, opener in _COMPRESSIONS if start.startswith(magic)), None)
    return stream if opener is None else _Forward(opener(stream))


class _Headers(tarfile.TarFile):
    """Where tarfile keeps what headers share; `_Reader` walks the archive itself."""

    def next(self) -> tarfile.TarInfo | None:
        return None


class _Reader:
    def __init__(
        self,
        stream: _Forward,
        where: str,
        wanted: Callable[[str], bool],
        unwanted: Callable[[str], None],
    ) -> None:
        self._file = stream
        self._where = where
        self._wanted = wanted
        self._unwanted = unwanted
        self._headers = _Headers(fileobj=cast(Any, self._file), errors="surrogateescape")
        self._headers.offset = 0
        self._is_cut = False

    def members(self) -> Iterator[Member | SkippedEntry]:
        is_closed = False
        while not self._is_cut:
            start = self._headers.offset
            self._file.seek(start)
            if self._file.tell() < start:
                yield self._skipped(f"it ends at byte {self._file.tell()}, inside of a file")
                return
            try:
                header = tarfile.TarInfo.fromtarfile(self._headers)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # another archive may follow
                is_closed = True
                self._headers.offset = start + _BLOCK
            except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
                if not is_closed:
                    yield self._skipped("it ends without the closing blocks: files may be missing")
                return
            except tarfile.TruncatedHeaderError:  # type: ignore[attr-defined]
                yield self._skipped(f"it ends at byte {self._file.tell()}, inside of a header")
                return
            except tarfile.HeaderError as error:
                yield self._after_damage(start, error)
                is_closed = True  # the damage is named, so the end is not named again
            else:
                is_closed = False
                yield from self._member(header)

    def _member(self, header: tarfile.TarInfo) -> Iterator[Member | SkippedEntry]:
        if header.isdir():
            return
        if not self._wanted(header.name):
            self._unwanted(header.name)
            return
        where = f"{self._where}: {header.name}"
        if not header.isreg() or header.issparse():
            yield SkippedEntry(where, "it is a link or a special file, not a regular one")
            return
        self._file.seek(header.offset_data)
        content = self._file.read(header.size)
        if len(content) < header.size:
            self._is_cut = True
            yield SkippedEntry(where, f"the archive ends after {len(content)} of its {header.size} bytes")
        else:
            yield Member(header.name, content)

    def _after_damage(self, start: int, error: tarfile.HeaderError) -> SkippedEntry:
        """Looks for the next header, which has to have the right checksum."""
        place = start + _BLOCK
        self._file.seek(place)
        while block := self._file.read(_BLOCK):
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                place += _BLOCK
                continue
            self._file.put_back(block)
            self._headers.offset = place
            return self._skipped(
                f"the header at byte {start} is damaged ({error}); {place - start} bytes are passed "
                "over, with the files in them"
            )
        self._headers.offset = place
        lost = f"what follows byte {start} is lost" if start else "it is not a tar archive"
        return self._skipped(f"the header at byte {start} is damaged ({error}), and none follows: {lost}")

    def _skipped(self, reason: str) -> SkippedEntry:
        return SkippedEntry(self._where, reason)
