"""What is written beside the pixels of a PNG is no reason to refuse it."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from tests.pictures import Write, encoded, is_picture, picture, turned, write_fixture  # noqa: F401  fixture
from xattn import images
from xattn.errors import ImageError


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def compressed(size: int) -> bytes:
    packer = zlib.compressobj()
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


NOISE = np.random.default_rng(0).bytes(1_500_000)
METADATA = {
    "long text": chunk(b"tEXt", b"prompt\0" + b"x" * 2_000_000),
    "compressed text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 2_000_000)),
    "compressed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 2_000_000),
    "many texts": b"".join(chunk(b"tEXt", b"key%d\0" % i + b"x" * 60_000) for i in range(1200)),
    "profile": chunk(b"iCCP", b"printer\0\0" + zlib.compress(NOISE)),
    "bomb": chunk(b"zTXt", b"bomb\0\0" + compressed(1 << 28)),
    "damaged text": chunk(b"zTXt", b"x\0\0not zlib"),
    "text without a key": chunk(b"iTXt", b"x" * 99),
}


@pytest.mark.parametrize("after_pixels", [False, True])
@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_metadata_are_passed_over(write: Write, metadata: bytes, after_pixels: bool) -> None:
    data = encoded(picture(), "PNG")
    place = len(data) - 12 if after_pixels else data.index(b"IDAT") - 4
    path = write(data[:place] + metadata + data[place:], "x.png")
    tracemalloc.start()
    try:
        assert is_picture(images.load(path).picture)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_orientation_is_read_beside_large_metadata(write: Write) -> None:
    stored, exif = turned(6)
    data = encoded(stored, "PNG", exif=exif)
    place = data.index(b"IDAT") - 4
    assert is_picture(images.load(write(data[:place] + METADATA["bomb"] + data[place:])).picture)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_png_with_large_metadata_is_refused(write: Write, share: float) -> None:
    data = encoded(picture((200, 300)), "PNG")
    place = data.index(b"IDAT") - 4
    pixels = data[place:]
    path = write(data[:place] + METADATA["profile"] + pixels[: int(len(pixels) * share)])
    with pytest.raises(ImageError, match="PNG"):
        images.load(path)
