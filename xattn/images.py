"""Picture files: which there are, and decoding that no file can harm.

A file is decoded only if its content (not its name) says that it has one of FORMATS and its header says
that it has at most `max_pixels`; it must decode to its last row. What comes out is upright RGB.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from xattn.errors import ImageError
from xattn.types import Size, Skipped

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
FORMATS = tuple(name for name in _PLUGINS if name != "AVIF" or features.check("avif"))

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng"}
    | {".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)
"""Lower case. By these `scan` recognises pictures."""

UNREADABLE_EXTENSIONS = frozenset(
    {".heic", ".heif", ".jxl", ".jp2", ".psd"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
"""Pictures too, which a person expects to find; so `scan` names them rather than passing over them."""

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what makes it upright. From 5 on, the sides change places."""

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
        raise ImageError(path, f"it cannot be read: {_why(error)}") from error


def _decode(
    path: str | os.PathLike[str], file: IO[bytes], at_least: int | None, max_pixels: int
) -> Decoded:
    name = _format(file.read(16))
    if name is None:
        raise ImageError(path, f"it is not a picture: its content is none of {', '.join(FORMATS)}")
    # Parsers of damaged files raise what happens to go wrong: struct.error, KeyError, zlib.error, …
    try:
        file.seek(0)
        picture = _PLUGINS[name](file)
    except Exception as error:
        raise ImageError(path, f"its {name} header cannot be read: {_why(error)}") from error
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageError(
            path,
            f"it has {width * height:,} pixels ({width} × {height}), more than the limit of {max_pixels:,};"
            " if you trust the file, raise the limit with max_pixels or --max-pixels",
        )
    if name == "JPEG" and not _has_end(file):
        raise ImageError(path, "its JPEG data is cut off: there is no end-of-image marker")
    try:
        if at_least:
            picture.draft(None, (at_least, at_least))
        picture.load()
        orientation = _orientation(picture)
        upright_picture = _transpose(_rgb(picture), orientation)
    except Exception as error:
        raise ImageError(path, f"its {name} data cannot be decoded: {_why(error)}") from error
    return Decoded(upright_picture, (width, height) if orientation >= 5 else (height, width))


def upright(picture: Image.Image) -> Image.Image:
    """A picture in memory as `load` would return it: upright, RGB, one frame. `picture` is not changed,
    and returned itself if it is that already.

    Raises ImageError if its pixels cannot be decoded or converted.
    """
    try:
        picture.load()
        return _transpose(_rgb(picture), _orientation(picture))
    except Exception as error:
        name = getattr(picture, "filename", "") or f"<{picture.mode} picture in memory>"
        raise ImageError(name, f"it cannot be converted to RGB: {_why(error)}") from error


def _format(prefix: bytes) -> str | None:
    for name in FORMATS:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(prefix) is True:  # a string says that support is not built in
            return name
    return None


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


def _why(error: Exception) -> str:
    """One line; some parsers give no message."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1–8; 1 also if EXIF is damaged, which does not make a picture useless."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return orientation if orientation in _TRANSPOSES else 1


def _transpose(picture: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return picture
    turned = picture.transpose(_TRANSPOSES[orientation])
    turned.info.clear()  # it would say to turn the picture again
    return turned


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _grey_from_wide(np.asarray(picture)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB") if picture.mode != "RGB" else picture
    rgba = picture.convert("RGBA")
    on_white = Image.new("RGB", picture.size, "white")
    on_white.paste(rgba, mask=rgba.getchannel("A"))
    return on_white


def _grey_from_wide(values: np.ndarray) -> Image.Image:
    """Grey of 16 or 32 bits or float → 8 bits. Pillow's own conversion clips at 255, so most goes white.

    Black is 0 and below. White is 65535 in 16 bits; elsewhere no format says what is white, so it is the
    first of 1, 255, 65535 and the picture's own maximum that no pixel exceeds. NaN and infinity are black.
    """
    if values.dtype.itemsize == 2:
        return Image.fromarray((values >> 8).astype(np.uint8))
    values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    brightest = float(values.max())
    white = next((limit for limit in (1.0, 255.0, 65535.0) if brightest <= limit), brightest)
    return Image.fromarray((values.clip(0, None) * (255 / white) + 0.5).astype(np.uint8))


# --- finding --------------------------------------------------------------------------------------------


def scan(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path | Skipped]:
    """The picture files at and below `paths`, and what is skipped; absolute, each once, ordered by path.

    Files are told by their extension; nothing is opened. Below a folder, hidden files and folders (a
    leading dot) and files that are no pictures are passed over in silence; links to folders are followed,
    but each real folder is listed once, so loops end, and under its own path where it has one below
    `paths`. Skipped, with the reason, are: a folder that cannot be listed; a picture that is a broken link
    or no regular file, or is in a format that cannot be read, or has a name that is not valid Unicode; a
    file that was named in `paths` and is no picture. An empty folder is no error.

    Raises ImageError if one of `paths` does not exist, before any folder is listed.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    walk = _Walk()
    roots = []
    for path in given:
        absolute = os.path.abspath(path)
        try:
            mode = os.stat(absolute).st_mode
        except (OSError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError)
            raise ImageError(path, "it does not exist" if missing else _why(error)) from error
        if stat.S_ISDIR(mode):
            roots.append(absolute)
        else:
            walk.take_file(absolute, stat.S_ISREG(mode), named=True)
    walk.folders(roots)
    return [walk.found[path] for path in sorted(walk.found)]


class _Walk:
    """One run of `scan`."""

    def __init__(self) -> None:
        self.found: dict[str, Path | Skipped] = {}
        self._listed: set[tuple[int, int]] = set()  # device and inode of real folders

    def folders(self, roots: Sequence[str]) -> None:
        pending, links = list(roots), list[str]()
        while pending or links:
            folder = pending.pop() if pending else links.pop(0)  # links last: see scan on a folder's path
            try:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in self._listed:
                    continue
                self._listed.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                self._skip(folder, f"the folder cannot be listed: {_why(error)}")
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is(entry, "dir"):
                    (links if entry.is_symlink() else pending).append(entry.path)
                else:
                    self.take_file(entry.path, _is(entry, "file"), named=False)

    def take_file(self, path: str, regular: bool, *, named: bool) -> None:
        extension = os.path.splitext(path)[1].lower()
        if extension in UNREADABLE_EXTENSIONS:
            self._skip(path, f"{extension} files cannot be read; convert it to JPEG or PNG")
        elif extension not in EXTENSIONS:
            if named:
                readable = ", ".join(sorted(EXTENSIONS))
                self._skip(path, f"by its extension it is no picture; expected one of {readable}")
        elif not regular:
            self._skip(path, "it is a broken link" if os.path.islink(path) else "it is not a regular file")
        elif not _is_unicode(path):
            self._skip(path, "its name is not valid Unicode; rename it")
        else:
            self.found[path] = Path(path)

    def _skip(self, path: str, reason: str) -> None:
        # A path that is not valid Unicode could be neither printed nor stored.
        shown = path if _is_unicode(path) else os.fsencode(path).decode("utf-8", "replace")
        self.found[path] = Skipped(Path(shown), reason)


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    """Follows links; False for one that leads nowhere or in a circle."""
    try:
        return entry.is_dir() if kind == "dir" else entry.is_file()
    except OSError:
        return False


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
