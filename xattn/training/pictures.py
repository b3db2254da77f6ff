"""Photos with captions and boxes, read from a directory with a records.jsonl."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xattn.errors import DataError

RelativeBox = tuple[float, float, float, float]
"""(x1, y1, x2, y2) as fractions of a picture's width and height."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One photo of a split.

    row:        its place among all records of the split, used or not: where its features are kept
    captions:   may be empty
    places:     category or phrase → the boxes it names
    categories: those present; empty where the photo was never searched for them
    """

    id: int
    row: int
    path: Path
    captions: tuple[str, ...]
    places: Mapping[str, tuple[RelativeBox, ...]]
    categories: frozenset[str]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The photos of a split that may be used.

    record_ids: those of all records of the split in file order, used or not; picture.row counts in it
    """

    split: str
    pictures: tuple[Picture, ...]
    record_ids: tuple[int, ...]

    @property
    def categories(self) -> list[str]:
        """Every category that occurs, sorted."""
        return sorted({name for picture in self.pictures for name in picture.categories})

    @property
    def texts(self) -> list[str]:
        """Every caption, phrase and category, sorted."""
        texts = {text for picture in self.pictures for text in (*picture.captions, *picture.places)}
        return sorted(texts.union(self.categories))


def read_dataset(directory: Path, split: str, leave_out: Collection[int] = ()) -> Dataset:
    """Reads the records of one split, without those whose id is in `leave_out` or that have no text.

    Each line of records.jsonl is an object with `id`, `image` (a path below the directory), `split`,
    `captions`, `boxes` ([{name, box}], every object of a closed list of categories) and `phrases`
    ([{phrase, box}]); boxes are fractions. Raises DataError if the file cannot be used.
    """
    path = directory / "records.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; --data expects a directory with it") from error
    pictures: list[Picture] = []
    record_ids: list[int] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if record["split"] != split:
                continue
            picture = _picture(record, len(record_ids), directory)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a record: {error!r}") from error
        record_ids.append(picture.id)
        if picture.id not in leave_out and (picture.captions or picture.places):
            pictures.append(picture)
    if not pictures:
        raise DataError(f"{path} has no usable record whose split is {split!r}, of {len(lines)} in all")
    return Dataset(split, tuple(pictures), tuple(record_ids))


def _picture(record: Mapping[str, Any], row: int, directory: Path) -> Picture:
    places: dict[str, list[RelativeBox]] = {}
    named = [(b["name"], b["box"]) for b in record["boxes"]]
    for text, box in named + [(p["phrase"], p["box"]) for p in record["phrases"]]:
        x1, y1, x2, y2 = (float(side) for side in box)
        places.setdefault(text, []).append((x1, y1, x2, y2))
    categories = frozenset(name for name, _ in named)
    return Picture(
        id=int(record["id"]),
        row=row,
        path=directory / record["image"],
        captions=tuple(record["captions"]),
        places={text: tuple(boxes) for text, boxes in places.items()},
        categories=categories,
    )
