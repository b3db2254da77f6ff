"""The picture files at and below given paths."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from xattn.errors import ImageError
from xattn.images.decode import EXTENSIONS, UNREADABLE_EXTENSIONS
from xattn.images.pixels import reason_of
from xattn.images.sniff import PREFIX_BYTES, is_picture_under_any_name
from xattn.types import Skipped

_SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"}  # Synology, QNAP
    | {"$recycle.bin", "recycler", "system volume information", "lost+found"}  # Windows, Linux
    | {"__macosx", "node_modules"}
)
"""Lower case. What machines keep beside a person's pictures: previews, deleted files, packages."""
_SYSTEM_SUFFIXES = (".lrdata",)  # previews of Lightroom
_LIBRARY_SUFFIX = ".photoslibrary"  # of macOS Photos; the originals are in `originals` or `Masters`
_LIBRARY_FOLDERS = frozenset({"originals", "masters"})

_MARKERS = frozenset({".nomedia", ".noimage"})
MARKED_REASON = "the folder is passed over: it holds .nomedia or .noimage; to read it, name it"


def scan(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path | Skipped]:
    """The picture files at and below `paths`, and what is skipped; absolute, each once, ordered by path.

    Files with the extension of a picture are told by it and not opened; others are pictures if their first
    bytes say so. Below a folder, hidden files and folders (a leading dot) and files that are no pictures
    are passed over in silence, and so are folders that machines keep (`@eaDir`, `$RECYCLE.BIN`); links to
    folders are followed, but each real folder is listed once, so loops end, and under its own path where it
    has one below `paths`. Skipped, with the reason, are: a folder that cannot be listed; one below `paths`
    that holds `.nomedia` or `.noimage` (MARKED_REASON); a picture that is a broken link or no regular file,
    or is in a format that cannot be read, or has a name that is not valid Unicode; a file that was named in
    `paths` and is no picture. An empty folder is no error.

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
            raise ImageError(path, "it does not exist" if missing else reason_of(error)) from error
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
        named = frozenset(roots)
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
                self._skip(folder, f"the folder cannot be listed: {reason_of(error)}")
                continue
            if folder not in named and any(entry.name.lower() in _MARKERS for entry in entries):
                self._skip(folder, MARKED_REASON)
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is(entry, "dir"):
                    if _is_system_folder(folder, entry.name):
                        continue
                    (links if entry.is_symlink() else pending).append(entry.path)
                else:
                    self.take_file(entry.path, _is(entry, "file"), named=False)

    def take_file(self, path: str, regular: bool, *, named: bool) -> None:
        extension = os.path.splitext(path)[1].lower()
        if extension not in EXTENSIONS and regular and _is_picture_by_content(path, extension):
            self._take(path)
        elif extension in UNREADABLE_EXTENSIONS:
            self._skip(path, f"{extension} files cannot be read; convert it to JPEG or PNG")
        elif extension not in EXTENSIONS:
            if named:
                readable = ", ".join(sorted(EXTENSIONS))
                self._skip(
                    path, f"by its extension and its content it is no picture; expected one of {readable}"
                )
        elif not regular:
            self._skip(path, "it is a broken link" if os.path.islink(path) else "it is not a regular file")
        else:
            self._take(path)

    def _take(self, path: str) -> None:
        if _is_unicode(path):
            self.found[path] = Path(path)
        else:
            self._skip(path, "its name is not valid Unicode; rename it")

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


def _is_system_folder(parent: str, name: str) -> bool:
    name = name.lower()
    if parent.lower().endswith(_LIBRARY_SUFFIX):
        return name not in _LIBRARY_FOLDERS
    return name in _SYSTEM_FOLDERS or name.endswith(_SYSTEM_SUFFIXES)


def _is_picture_by_content(path: str, extension: str) -> bool:
    """False, too, for a file that cannot be read: its name claims nothing."""
    try:
        with open(path, "rb") as file:
            return is_picture_under_any_name(file.read(PREFIX_BYTES), extension)
    except OSError:
        return False


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
