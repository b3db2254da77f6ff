"""Pictures that lie inside archives, written out once to the user's cache as a folder with a table.

Pictures are read in any order and more than once, by training, evaluation and the check alike; as files
they can be, whatever they came in. What stands in the cache is checked each time and written out again
where it is not whole: programs that clean caches delete single files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xattn.datasets.base import Dataset, Record, SkippedEntry, Tally, count_blank, distinct
from xattn.datasets.columns import picture_name
from xattn.errors import DataError
from xattn.files import user_cache_dir

VERSION = 2
"""Of the files below; others are written out again."""
TABLE = "pictures.jsonl"
MANIFEST = "manifest.json"
_PER_FOLDER = 1000
_STALE_SECONDS = 24 * 3600
"""A folder in making that did not change for so long was left by a process that was killed."""


@dataclass(slots=True)
class UnpackedPicture:
    """One picture written out.

    image: relative to the cache folder, or absolute where it lay as a file already; size: bytes, None for
    a file that is not in the cache; origin: how messages call it
    """

    image: str
    size: int | None
    origin: str
    split: str | None = None
    captions: list[str] = field(default_factory=list)


class Unpacking:
    """A folder while it is filled. What is not in `pictures` at the end is not part of the dataset."""

    def __init__(self, folder: Path) -> None:
        self.tally = Tally()
        self.pictures: list[UnpackedPicture] = []
        self._folder = folder
        self._num_written = 0

    def add(
        self,
        content: bytes | Path,
        name: str,
        *,
        origin: str,
        captions: Sequence[str] = (),
        split: str | None = None,
    ) -> UnpackedPicture:
        """content: the bytes of a picture file, or where it lies; name: of the file, for its ending."""
        if isinstance(content, Path):
            picture = UnpackedPicture(os.fspath(content.absolute()), None, origin, split, [*captions])
        else:
            # Names in archives may hold anything, "../" too.
            safe = re.sub(r"[^\w.-]+", "_", name)[-100:].lstrip(".")
            place = f"{self._num_written // _PER_FOLDER:05}/{self._num_written:08}-{safe}"
            self._num_written += 1
            try:
                (self._folder / place).parent.mkdir(exist_ok=True)
                (self._folder / place).write_bytes(content)
            except OSError as error:
                raise _WriteError(error) from error
            picture = UnpackedPicture(place, len(content), origin, split, [*captions])
        self.pictures.append(picture)
        return picture

    def add_value(
        self,
        value: object,
        name: str,
        *,
        folder: Path,
        origin: str,
        captions: Sequence[str],
        split: str | None,
    ) -> None:
        """A picture as tables give it: its bytes, its path, or {"bytes", "path"}, one of which may be None.

        folder: that paths are relative to. Raises TypeError or ValueError if there is no picture.
        """
        content, path = (
            (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        )
        if isinstance(content, str):
            content, path = None, content
        if content is None and path is None:
            raise ValueError("it has no picture")
        if content is None:
            self.add(folder / picture_name(path), name, origin=origin, captions=captions, split=split)
        elif isinstance(content, bytes):
            full = f"{name}-{Path(path).name}" if isinstance(path, str) else name
            self.add(content, full, origin=origin, captions=captions, split=split)
        else:
            raise TypeError(f"expected a picture or its path, got {type(content).__name__}")

    def drop(self, pictures: Sequence[UnpackedPicture]) -> None:
        """Takes back pictures that were added."""
        dropped = {id(picture) for picture in pictures}
        for picture in pictures:
            (self._folder / picture.image).unlink()
        self.pictures = [picture for picture in self.pictures if id(picture) not in dropped]

    def finish(self) -> None:
        """Writes the table and the manifest."""
        with (self._folder / TABLE).open("w", encoding="utf-8") as table:
            for picture in self.pictures:
                table.write(json.dumps(asdict(picture)) + "\n")
        manifest = {
            "version": VERSION,
            "num_pictures": len(self.pictures),
            "num_entries": self.tally.num_entries,
            "num_used": self.tally.num_used,
            "skipped": [asdict(entry) for entry in self.tally.skipped],
        }
        (self._folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def file_identity(path: Path) -> str:
    """Changes when the file does, also where its size stays. Raises OSError if it is not there."""
    status = path.stat()
    times = f"{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"
    return f"{path.absolute()}:{status.st_size}:{times}"


def cache_dir() -> Path:
    """For what can be made again: the variable XATTN_CACHE, or where the system keeps such things.

    Raises DataError if there is no home directory.
    """
    given = os.environ.get("XATTN_CACHE")
    if given:
        return Path(given)
    try:
        return user_cache_dir().expanduser()
    except RuntimeError as error:
        raise DataError(
            f"There is no directory for a cache ({error}): set the variable XATTN_CACHE."
        ) from error


def unpacked(identity: str, fill: Callable[[Unpacking], None]) -> Path:
    """The folder for `identity`, which must change when the source does; `fill` is called if there is none
    that is whole.

    Made under another name and then renamed, so that a process that is killed leaves nothing half made.
    Raises DataError if the cache cannot be written.
    """
    digest = hashlib.blake2b(f"{VERSION}\n{identity}".encode("utf-8", "surrogateescape"), digest_size=12)
    folder = cache_dir() / "datasets" / digest.hexdigest()
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        making = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        unpacking = Unpacking(making)
        fill(unpacking)
        unpacking.finish()
        _replace(making, folder)
    except (OSError, _WriteError) as error:
        if not is_whole(folder):  # else another process was faster
            raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


class _WriteError(Exception):
    """The cache cannot be written. Errors of the source, in contrast, are skipped entries."""


def _cannot_write(folder: Path, error: Exception) -> DataError:
    return DataError(
        f"The pictures cannot be written out to the cache {folder.parent}: {error}. Make room or give the "
        "right to write there, or set the variable XATTN_CACHE to another directory."
    )


def _remove_stale(parent: Path) -> None:
    for making in parent.glob(".*-*"):
        with suppress(OSError):
            if time.time() - making.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(making, ignore_errors=True)


def _replace(making: Path, folder: Path) -> None:
    """Renames, in place of what may stand there and is not whole."""
    if folder.exists() and not is_whole(folder):
        os.replace(folder, making / "replaced")
        shutil.rmtree(making / "replaced", ignore_errors=True)
    os.replace(making, folder)


def is_whole(folder: Path) -> bool:
    """Whether the table and all pictures are there, in their sizes."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        pictures = _pictures(folder)
        return (
            manifest["version"] == VERSION
            and manifest["num_pictures"] == len(pictures)
            and all(p.size is None or (folder / p.image).stat().st_size == p.size for p in pictures)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_unpacked(folder: Path) -> Dataset:
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    records = (
        Record(
            id=picture.image,
            image=folder / picture.image,
            captions=distinct(picture.captions),
            num_blank=count_blank(picture.captions),
            split=picture.split,
            origin=picture.origin,
        )
        for picture in _pictures(folder)
    )
    return Dataset(
        folder.name,
        None,
        tuple(records),
        source=str(folder),
        skipped=tuple(SkippedEntry(**entry) for entry in manifest["skipped"]),
        num_entries=manifest["num_entries"],
        num_used=manifest["num_used"],
    )


def _pictures(folder: Path) -> list[UnpackedPicture]:
    with (folder / TABLE).open(encoding="utf-8") as table:
        return [UnpackedPicture(**json.loads(line)) for line in table]
