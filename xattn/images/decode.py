"""Picture files: which there are, and decoding that no file can harm.

A file is decoded only if its content (not its name) says that it has one of FORMATS and its header says
that it has at most `max_pixels`; it must decode to its last row. What comes out is upright RGB.
"""

from __future__ import annotations

import os
import stat
from typing import IO, NamedTuple

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from xattn.errors import ImageError
from xattn.images.jpeg import ends_early
from xattn.images.pixels import orientation_of, reason_of, to_rgb, transposed
from xattn.images.png import without_metadata
from xattn.images.sniff import PREFIX_BYTES, check_format
from xattn.types import Size

MAX_PIXELS = 128_000_000
"""Takes 108-megapixel phone cameras; decoded, such a picture fills 0.4 GB."""

# The plugins' classes, because Image.open reports pictures that are too large by a process-wide warning
# filter and a process-wide limit, neither of which a library may change, least of all with threads about.
# Other formats that Pillow reads (PostScript, which it runs; icons; fonts; video) are no photos.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng"}
    | {".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)
"""Lower case. Files called so are taken for pictures without a look at their content."""

UNREADABLE_EXTENSIONS = frozenset(
    {".heic", ".heif", ".jxl", ".jp2", ".psd"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
"""Pictures too, which a person expects to find; so `scan` names them rather than passing over them, unless
their content is that of a readable picture."""


_END_OF_JPEG = b"\xff\xd9"


class Decoded(NamedTuple):
    """picture: upright RGB, maybe smaller than the original; size: of the upright original."""

    picture: Image.Image
    size: Size


# --- decoding -------------------------------------------------------------------------------------------


def load(
    path: str | os.PathLike[str], *, at_least: int | None = None, max_pixels: int = MAX_PIXELS
) -> Decoded:
    """Decodes one picture; of several frames the first. Safe to call from several threads at once.

    at_least: pixels. A JPEG may come out at ½, ¼ or ⅛ of its size, which decodes several times faster, as
    long as both sides stay at or above this. Other formats come out at full size.
    max_pixels: width × height beyond which a file is refused before anything is decoded.
    EXIF orientation is applied; transparency is put on white; 16-bit, float, CMYK, palette and grey
    pictures become 8-bit RGB. Colour profiles are not applied.

    Raises ImageError if the file is missing, unreadable, no picture, too large, damaged or cut off, and
    nothing else.
    """
    try:
        # Before opening: to open a named pipe would wait for a writer for ever.
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(path, "it is a folder, not a picture")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "it is not a regular file")
        if status.st_size == 0:
            raise ImageError(path, "the file is empty (0 bytes)")
        with open(path, "rb") as file:
            return _decode(path, file, at_least, max_pixels)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ImageError(path, f"it cannot be read: {reason_of(error)}") from error


def _decode(
    path: str | os.PathLike[str], file: IO[bytes], at_least: int | None, max_pixels: int
) -> Decoded:
    name = check_format(path, file.read(PREFIX_BYTES))
    # Parsers of damaged files raise what happens to go wrong: struct.error, KeyError, zlib.error, …
    try:
        file.seek(0)
        picture = _PLUGINS[name](without_metadata(file) if name == "PNG" else file)
    except Exception as error:
        raise ImageError(path, f"its {name} header cannot be read: {reason_of(error)}") from error
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageError(
            path,
            f"it has {width * height:,} pixels ({width} × {height}), more than the limit of {max_pixels:,};"
            " if you trust the file, raise the limit: --max-pixels of xattn index, or max_pixels in Python",
        )
    if name == "JPEG" and not _has_end(file):
        raise ImageError(path, "its JPEG data is cut off: there is no end-of-image marker")
    try:
        if at_least:
            picture.draft(None, (at_least, at_least))
        picture.load()
        is_cut = isinstance(picture, JpegImagePlugin.JpegImageFile) and ends_early(
            file, picture, (width, height)
        )
        orientation = orientation_of(picture)
        upright_picture = transposed(to_rgb(picture), orientation)
    except Exception as error:
        raise ImageError(path, f"its {name} data cannot be decoded: {reason_of(error)}") from error
    if is_cut:
        raise ImageError(path, "its JPEG data ends early: the rows below are missing")
    return Decoded(upright_picture, (width, height) if orientation >= 5 else (height, width))


def _has_end(file: IO[bytes]) -> bool:
    """Whether an end-of-image marker follows the header, after which Pillow leaves a JPEG file.

    Pillow itself refuses a file that just stops, but if zeros fill up its length, as after a download
    that broke off, it decodes them to grey.
    """
    header_end = file.tell()
    file.seek(-2, os.SEEK_END)
    if file.read() == _END_OF_JPEG:  # nearly always, and reads nothing else
        return True
    file.seek(header_end)
    last = b""
    while block := file.read(1 << 20):
        if _END_OF_JPEG in last + block:
            return True
        last = block[-1:]
    return False
