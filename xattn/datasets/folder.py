"""A folder of pictures with a file of captions beside each: dog.jpg and dog.txt or dog.json."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from xattn import images
from xattn.datasets.base import Dataset, Record, count_blank, distinct, reading
from xattn.errors import DataError
from xattn.types import Skipped

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "valid", "validation", "dev", "test")


def read_folder(folder: Path, split: str | None) -> Dataset:
    """Each line of a .txt is a caption; a .json holds a caption, a list of them, or an object with
    `caption` or `captions`. Both may be there. Pictures without either are kept, without captions."""
    root = folder if split is None else folder / split
    if not root.is_dir():
        raise DataError(f"{folder} has no split {split!r}: expected a folder of that name in it.")
    records: list[Record] = []
    for found in images.scan([root]):
        if isinstance(found, Skipped):
            logger.debug("%s is left out: %s", found.path, found.reason)
            continue
        lines = [*_text_captions(found.with_suffix(".txt")), *_json_captions(found.with_suffix(".json"))]
        records.append(Record(str(found), found, distinct(lines), num_blank=count_blank(lines)))
    if not any(record.captions for record in records):
        raise DataError(
            f"{root} has no captions: expected a file such as dog.txt beside dog.jpg, with a caption on "
            f"each line; found {len(records)} pictures without one."
        )
    return Dataset(root.resolve().name, split, tuple(records))


def folder_splits(folder: Path) -> list[str]:
    """Folders in it that are called as splits are."""
    return [name for name in SPLITS if (folder / name).is_dir()]


def _text_captions(path: Path) -> list[str]:
    with reading(str(path)):
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _json_captions(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with reading(str(path)):
        return json_captions(path.read_text(encoding="utf-8"))


def json_captions(text: str) -> list[str]:
    """Raises ValueError or TypeError if it is none of what `read_folder` describes."""
    found = json.loads(text)
    if isinstance(found, dict):
        found = found.get("captions", found.get("caption"))
    captions = [found] if isinstance(found, str) else list(found or [])
    if not all(isinstance(caption, str) for caption in captions):
        raise TypeError("expected captions to be strings")
    return captions
