"""PNG files made byte by byte, for what no encoder would write."""

import struct
import zlib


def png(header: bytes, rows: bytes) -> bytes:
    """header: the body of IHDR; rows: what is compressed into IDAT."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def claiming(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), bytes(1000))
