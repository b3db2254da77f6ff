"""Photos with captions and boxes, read from a directory with a records.jsonl."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
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
    wrong:      caption → captions like it that are false of the photo (training.swaps)
    """

    id: int
    row: int
    path: Path
    captions: tuple[str, ...]
    places: Mapping[str, tuple[RelativeBox, ...]]
    categories: frozenset[str]
    wrong: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
        """Every caption, phrase and category, and the wrong captions, sorted."""
        texts = {text for picture in self.pictures for text in (*picture.captions, *picture.places)}
        wrong = {text for picture in self.pictures for texts in picture.wrong.values() for text in texts}
        return sorted(texts.union(self.categories, wrong))


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


def read_credited(path: Path) -> frozenset[int]:
    """Ids of the sample photos (data/samples/credits.json): they are shown, so they are not trained on."""
    try:
        return frozenset(int(entry["coco_id"]) for entry in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} does not list the sample photos, which must stay out of training: {error!r}; "
            "say where it is with --leave-out"
        ) from error
