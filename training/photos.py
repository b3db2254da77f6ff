"""Photos to train on: captions, and texts with boxes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from xattn.datasets import NamedBox, Record, read_dataset
from xattn.datasets.base import Fractions
from xattn.errors import DataError

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_LEADING = re.compile(
    r"^(?:a|an|the|some|his|her|their|its|this|that|these|those|one|two|three|four|five|several|many|another)\s+"
)
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the some his her their its this that these those of in on at with and or to by for from "
        "is are",
    )
)
PERSON_WORDS = frozenset(
    re.findall(
        r"\w+",
        "man men woman women boy boys girl girls child children kid kids baby lady guy player rider skier "
        "surfer person people adult toddler",
    )
)


@dataclass(frozen=True)
class Photo:
    """One photo.

    source: name of its data set; key: unique over all data sets
    phrases: noun phrase → its boxes; categories: name of an annotated category → its boxes, where the photo
        was searched for all of them; boxes as fractions of width and height
    """

    source: str
    key: str
    path: Path
    captions: tuple[str, ...]
    phrases: Mapping[str, tuple[Fractions, ...]]
    categories: Mapping[str, tuple[Fractions, ...]]

    @cached_property
    def words(self) -> frozenset[str]:
        """Every word that is said of the photo."""
        texts = (*self.captions, *self.phrases, *self.categories)
        words = {word for text in texts for word in words_of(text)}
        return frozenset(words | ({"person", "people"} if words & PERSON_WORDS else set()))

    @cached_property
    def named(self) -> frozenset[str]:
        """Every phrase and category, normalised."""
        return frozenset(map(normalised, (*self.phrases, *self.categories)))

    def places(self) -> dict[str, tuple[Fractions, ...]]:
        """Text with boxes → boxes; categories as "a dog"."""
        return {**self.phrases, **{with_article(name): boxes for name, boxes in self.categories.items()}}

    def says(self, text: str) -> bool:
        """Whether all words of a text are said of the photo: the text may then be true of it."""
        return content_words(text) <= self.words


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def content_words(text: str) -> frozenset[str]:
    return frozenset(words_of(text)) - STOP_WORDS


def normalised(phrase: str) -> str:
    """Lower case, without a leading article or number."""
    return _LEADING.sub("", phrase.lower().strip())


def with_article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def read_photos(directory: Path, split: str, leave_out: Collection[str] = ()) -> list[Photo]:
    """The photos of one split that have a caption or a box, without the ids of `leave_out`.

    Raises:
        DataError: the directory is no data set, or has no such split.
    """
    dataset = read_dataset(directory, split)
    photos = [
        _photo(dataset.name, record)
        for record in dataset.records
        if record.id not in leave_out and (record.captions or record.boxes or record.phrases)
    ]
    if not photos:
        raise DataError(f"{directory} has no photo of the split {split!r} with captions or boxes")
    return photos


def _photo(source: str, record: Record) -> Photo:
    def grouped(named: Sequence[NamedBox]) -> dict[str, tuple[Fractions, ...]]:
        boxes: dict[str, list[Fractions]] = {}
        for entry in named:
            boxes.setdefault(entry.name, []).append(entry.box)
        return {name: tuple(some) for name, some in boxes.items()}

    return Photo(
        source=source,
        key=f"{source}-{record.id}",
        path=record.image,
        captions=record.captions,
        phrases=grouped(record.phrases),
        categories=grouped(record.boxes),
    )


def read_credited(path: Path) -> frozenset[str]:
    """COCO ids of the sample photos, which are shown, so they are not trained on."""
    try:
        return frozenset(str(entry["coco_id"]) for entry in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} does not list the sample photos, which must stay out of training: {error!r}; "
            "say where it is with --leave-out"
        ) from error


def split_off(photos: Sequence[Photo], held_out: int, seed: int) -> tuple[list[Photo], list[Photo]]:
    """(held out for calibration: `held_out` captioned photos of each data set at random, to train on)."""
    held: set[str] = set()
    for source in sorted({photo.source for photo in photos}):
        captioned = [photo.key for photo in photos if photo.source == source and photo.captions]
        held |= set(random.Random(seed).sample(captioned, min(held_out, len(captioned) // 2)))
    return [p for p in photos if p.key in held], [p for p in photos if p.key not in held]
