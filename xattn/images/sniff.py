"""What a file is by its first bytes, whatever its name."""

from __future__ import annotations

import os

from PIL import Image, features

from xattn.errors import ImageError

PREFIX_BYTES = 64
"""Enough for every signature here, with the brands of an ISO media file."""

FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
    if name != "AVIF" or features.check("avif")
)

# (offset, signature, kind) of what a person may take for a picture.
_UNREADABLE: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (0, b"IIU\0", "camera raw (RW2)"),
    (0, b"IIRO", "camera raw (ORF)"),
    (8, b"CR\x02", "camera raw (CR2)"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
)
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def kind_of(prefix: bytes) -> str | None:
    """One of FORMATS, or the name of another kind of file that is known but not read, or None.

    prefix: the first PREFIX_BYTES of the file, or all of a shorter one.
    """
    if prefix[4:8] == b"ftyp":
        return _kind_of_iso_media(prefix)
    for offset, signature, kind in _UNREADABLE:
        if prefix.startswith(signature, offset):
            return kind
    for name in FORMATS:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(prefix[:16]) is True:  # a string says: support is not built in
            return name
    return None


def check_format(path: str | os.PathLike[str], prefix: bytes) -> str:
    """The one of FORMATS that a file begins with. Raises ImageError, with the kind where it is known."""
    kind = kind_of(prefix)
    if kind is None:
        raise ImageError(path, f"it is not a picture: its content is none of {', '.join(FORMATS)}")
    if kind not in FORMATS:
        raise ImageError(path, f"it is {kind}, which cannot be read; convert it to JPEG or PNG")
    return kind


def is_picture_under_any_name(prefix: bytes, extension: str) -> bool:
    """Whether a file whose extension is not that of a readable picture is one by its content.

    extension: lower case with the dot, or empty. Two signatures do not suffice by themselves: that of BMP
    is two letters, with which a text may begin, so its header must fit, too; and that of TIFF also begins
    camera raw, of which only a thumbnail would be read, so it counts only where there is no extension.
    """
    kind = kind_of(prefix)
    if kind == "BMP":
        header_size = int.from_bytes(prefix[14:18], "little")
        return prefix[6:10] == bytes(4) and header_size in _BMP_HEADER_SIZES
    if kind == "TIFF":
        return not extension
    return kind in FORMATS


def _kind_of_iso_media(prefix: bytes) -> str | None:
    """By the brands of the `ftyp` box (ISO/IEC 14496-12 §4.3). HEIC and AVIF may share the major brand
    `mif1`, so the compatible brands count as well."""
    end = min(int.from_bytes(prefix[:4], "big"), len(prefix))
    major = prefix[8:12]
    brands = {major} | {prefix[at : at + 4] for at in range(16, end - 3, 4)}
    if major in _AVIF_BRANDS or (major not in _HEIF_BRANDS and brands & _AVIF_BRANDS):
        return "AVIF"
    if brands & _HEIF_BRANDS or major in (b"mif1", b"msf1"):
        return "HEIC"
    if major == b"crx ":
        return "camera raw (CR3)"
    return "a video (MP4 or MOV)"
