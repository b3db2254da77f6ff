"""Pictures that lie inside archives, written out once to the user's cache as a folder with a table.

Pictures are read in any order and more than once, by training, evaluation and the check alike; as files
they can be, whatever they came in, and a message can name the one that is broken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xattn.datasets.base import Dataset
from xattn.datasets.tables import read_table, table_splits

TABLE = "metadata.jsonl"


@dataclass(frozen=True, slots=True)
class Packed:
    """One picture in an archive, and what is said of it.

    content: the file's bytes, or where it lies as a file already; name: for messages
    """

    name: str
    content: bytes | Path
    captions: Sequence[str]
    split: str | None = None


def cache_dir() -> Path:
    """For what can be made again: the variable XATTN_CACHE, or where the system keeps such things."""
    given = os.environ.get("XATTN_CACHE")
    if given:
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "xattn"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"), "xattn", "cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "xattn")


def unpacked(identity: str, pictures: Iterable[Packed]) -> Path:
    """The folder for `identity`, which must change when the source does; `pictures` is walked if new.

    Made under another name and then renamed: what stands there is always whole.
    """
    folder = cache_dir() / "datasets" / hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with (making / TABLE).open("w", encoding="utf-8") as table:
            for number, picture in enumerate(pictures):
                table.write(json.dumps(_row(making, number, picture)) + "\n")
        os.replace(making, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _row(folder: Path, number: int, picture: Packed) -> dict[str, object]:
    if isinstance(picture.content, Path):
        place = os.fspath(picture.content.absolute())
    else:
        # Names in archives may hold anything, "../" too.
        name = re.sub(r"[^\w.-]+", "_", picture.name)[-100:].lstrip(".")
        place = f"{number // 1000:05}/{number:08}-{name}"
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(picture.content)
    row: dict[str, object] = {"image": place, "captions": list(picture.captions)}
    return row if picture.split is None else {**row, "split": picture.split}


def read_unpacked(folder: Path, split: str | None, name: str) -> Dataset:
    return replace(read_table(folder / TABLE, split, None), name=name)


def unpacked_splits(folder: Path) -> list[str]:
    return table_splits(folder / TABLE)
