"""Whether a JPEG holds all of its picture, which its decoder does not say."""

from __future__ import annotations

import io
import struct
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin

_GREY = 128
"""What libjpeg leaves where entropy-coded data are missing: coefficients of 0."""
_TAIL_BYTES = 8
_MAX_TAIL_BLOCKS = 40
"""More blocks of pixels than the tail can code: one of a flat picture takes 2 bits or more."""
_MAX_FILE_BYTES = 1 << 28

_SOS = 0xDA
_BASELINE = frozenset({0xC0, 0xC1})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those are tables
_RESTARTS = frozenset(range(0xD0, 0xD8))


class _Scan(NamedTuple):
    """Entropy-coded data of a picture with one scan: data[start:end]."""

    start: int
    end: int


def ends_early(file: IO[bytes], picture: JpegImagePlugin.JpegImageFile, size: tuple[int, int]) -> bool:
    """Whether the data of a baseline JPEG end before its last rows, although an end marker follows.

    Such a picture is grey below, as is a whole picture of fog. They differ in what the last bytes code: the
    last blocks of a whole picture, but blocks far above of one that was cut. So those bytes are changed,
    and where the picture then changes tells. It takes two more decodings, at full size, done only where
    the last pixels are exactly that grey. A cut within the last rows is not seen, nor one of a progressive
    JPEG.

    picture: loaded, maybe at a fraction of its size; size: width and height in the file.
    """
    if picture.mode not in ("L", "RGB") or not _last_pixels_are_grey(picture):
        return False
    file.seek(0)
    data = bytearray(file.read(_MAX_FILE_BYTES))
    scan = _only_scan(data)
    if scan is None or len(data) == _MAX_FILE_BYTES:
        return False
    try:
        before = _pixels(data)
        _change_tail(data, scan)
        rows = np.flatnonzero((_pixels(data) != before).reshape(len(before), -1).any(1))
    except OSError:
        return False
    if not len(rows):
        return False
    width, height = size
    layers = picture.layer if picture.mode != "L" else [(1, 1, 1)]  # of one channel, sampling means nothing
    block_width, block_height = (8 * max(layer[i] for layer in layers) for i in (1, 2))
    rows_below = -(-height // block_height) - int(rows[0]) // block_height - 1
    return rows_below * -(-width // block_width) > _MAX_TAIL_BLOCKS


def _pixels(data: bytearray) -> UInt8[np.ndarray, "H ..."]:
    """At full size and in colour: a change of fine detail or of colour alone does not show otherwise."""
    picture = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    picture.load()
    return np.asarray(picture)


def _last_pixels_are_grey(picture: Image.Image) -> bool:
    width, height = picture.size
    corner = np.asarray(picture.crop((max(0, width - 8), height - 1, width, height)), int)
    return bool(np.abs(corner - _GREY).max() <= 1)


def _only_scan(data: bytearray) -> _Scan | None:
    """None for a progressive JPEG, one with a scan for each channel, or one whose segments are damaged.

    Source: ITU-T T.81, annex B.
    """
    at = 2
    channels = 0
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _FRAMES:
            if marker not in _BASELINE or at + 10 > len(data):
                return None
            channels = data[at + 9]
        if marker == _SOS:
            start = at + 2 + length
            if start > len(data) or data[at + 4] != channels:
                return None
            return _Scan(start, _end_of_entropy_data(data, start))
        at += 2 + length
    return None


def _end_of_entropy_data(data: bytearray, start: int) -> int:
    """The place of the first marker that is none of those within a scan."""
    at = data.find(0xFF, start)
    while 0 <= at < len(data) - 1:
        if data[at + 1] not in _RESTARTS and data[at + 1] not in (0x00, 0xFF):
            return at
        at = data.find(0xFF, at + 1)
    return len(data)


def _change_tail(data: bytearray, scan: _Scan) -> None:
    """Changes the last bytes so that none becomes, or ceases to be, a part of a marker."""
    for at in range(max(scan.start + 1, scan.end - _TAIL_BYTES), scan.end):
        if 0xFF not in (data[at], data[at] ^ 0x55, data[at - 1]):
            data[at] ^= 0x55
