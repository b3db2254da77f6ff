"""What a dataset is: images in a fixed order, what is known of each, and what could not be read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from xattn.errors import DataError

T = TypeVar("T")

Fractions = tuple[float, float, float, float]
"""x1, y1, x2, y2 as fractions of the picture's width and height, within [0, 1], of positive area"""

EntryKind = Literal["sample", "caption", "picture", "box", "negative", "file"]
"""What a skipped entry would have been: a picture with all that is said of it, a caption, a picture file of
which nothing is said, a box or phrase, a hard negative, or a whole file that no reader uses."""

FATAL_KINDS = frozenset({"sample", "caption", "negative"})
"""Kinds without which a dataset is not complete. The others are only reported."""


class NamedBox(NamedTuple):
    """Where something is. A name may stand in several boxes of one picture: any of them is right.

    in_captions: of a phrase, indices into the record's captions that it was taken from, if known
    """

    name: str
    box: Fractions
    in_captions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One picture and what is known of it.

    boxes: of categories; phrases: of free-form phrases; num_blank: captions given that hold nothing;
    split: the part of the dataset that it belongs to, if any; origin: where the picture is for a person, if
    `image` is a copy of it in a cache
    """

    id: str
    image: Path
    captions: tuple[str, ...] = ()
    boxes: tuple[NamedBox, ...] = ()
    phrases: tuple[NamedBox, ...] = ()
    num_blank: int = 0
    split: str | None = None
    origin: str = ""

    @property
    def label(self) -> str:
        """How messages call the picture."""
        return self.origin or str(self.image)


@dataclass(frozen=True, slots=True)
class HardNegative:
    """A true caption of a picture and one that is subtly wrong."""

    record_id: str
    set: str
    kind: str
    positive: str
    negative: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A caption of a picture that is true of it or not, with no counterpart to compare it with."""

    record_id: str
    set: str
    kind: str
    text: str
    is_true: bool


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """A part of a dataset that was not read.

    where: the file and the row, line, member or id in it; reason: what is wrong, and the way out;
    split: the one that it belongs to, None if it has none or it could not be read
    """

    where: str
    reason: str
    kind: EntryKind = "sample"
    split: str | None = None

    @property
    def is_fatal(self) -> bool:
        return self.kind in FATAL_KINDS

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Pictures in a fixed order. Hard negatives and statements name records of this dataset only.

    source:      the file or folder that was read
    skipped:     every entry that was not read, with the reason
    num_entries: rows, lines, files or annotations that the source holds, of all its splits
    num_used:    those of them that went into records
    num_used + skipped entries (but whole files) = num_entries, or a reader has lost something.
    """

    name: str
    split: str | None
    records: tuple[Record, ...]
    hard_negatives: tuple[HardNegative, ...] = ()
    statements: tuple[Statement, ...] = ()
    source: str = ""
    skipped: tuple[SkippedEntry, ...] = ()
    num_entries: int = 0
    num_used: int = 0

    @property
    def splits(self) -> list[str]:
        return sorted({record.split for record in self.records if record.split is not None})


@dataclass(slots=True)
class Tally:
    """Counts what a reader meets: each entry is either used or skipped with a reason."""

    skipped: list[SkippedEntry] = field(default_factory=list)
    num_entries: int = 0
    num_used: int = 0

    def counted(self, entries: Iterable[T | SkippedEntry]) -> Iterator[T]:
        """The entries of a source that can be read; the others are noted."""
        for entry in entries:
            self.num_entries += 1
            if isinstance(entry, SkippedEntry):
                self.skipped.append(entry)
            else:
                yield entry

    @contextmanager
    def using(self, where: str, kind: EntryKind = "sample", split: str | None = None) -> Iterator[None]:
        """One counted entry: used if the block ends well, else skipped with the error as the reason."""
        try:
            yield
        except ENTRY_ERRORS as error:
            self.skipped.append(SkippedEntry(where, reason_of(error), kind, split))
        else:
            self.num_used += 1

    def note(self, where: str, reason: str, split: str | None = None) -> None:
        """Names a file that no reader uses. It is none of the entries."""
        self.skipped.append(SkippedEntry(where, reason, "file", split))

    def dataset(self, name: str, records: Iterable[Record], source: object) -> Dataset:
        return Dataset(
            name,
            None,
            tuple(records),
            source=str(source),
            skipped=tuple(self.skipped),
            num_entries=self.num_entries,
            num_used=self.num_used,
        )


ENTRY_ERRORS = (DataError, KeyError, ValueError, TypeError, AttributeError, OSError, RecursionError)
"""What reading one entry may raise when the entry is not of the expected form."""


def reason_of(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"the key {error} is missing"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return str(error).rstrip(".") or type(error).__name__


def select(dataset: Dataset, split: str | None, source: object) -> Dataset:
    """The records of one split, and what was skipped of it or of no known split.

    Raises DataError if there is no such split.
    """
    if split is None:
        return dataset
    records = tuple(record for record in dataset.records if record.split == split)
    if not records:
        faults = [
            str(entry) for entry in dataset.skipped if entry.is_fatal and entry.split in (None, split)
        ]
        hint = f" {len(faults)} entries cannot be read, the first is {faults[0]}." if faults else ""
        raise DataError(f"{source} has no record of the split {split!r}; it has {dataset.splits}.{hint}")
    ids = {record.id for record in records}
    return replace(
        dataset,
        split=split,
        records=records,
        hard_negatives=tuple(pair for pair in dataset.hard_negatives if pair.record_id in ids),
        statements=tuple(entry for entry in dataset.statements if entry.record_id in ids),
        skipped=tuple(entry for entry in dataset.skipped if entry.split in (None, split)),
    )


def split_name(value: object) -> str | None:
    """A split as a file gives it, None where it is empty."""
    return (str(value).strip() or None) if value is not None else None


def box_within(box: object) -> Fractions:
    """Cuts a box of fractions to the picture. Raises ValueError where nothing is left of it."""
    if not isinstance(box, Sequence) or isinstance(box, str) or len(box) != 4:
        raise ValueError(f"expected a box of 4 numbers, got {shortened(box)}")
    if not all(isinstance(side, int | float) and math.isfinite(side) for side in box):
        raise ValueError(f"expected a box of 4 finite numbers, got {shortened(box)}")
    x1, y1, x2, y2 = (min(max(float(side), 0.0), 1.0) for side in box)
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"the box {shortened(box)} has no area inside the picture")
    return x1, y1, x2, y2


def distinct(lines: Iterable[str]) -> tuple[str, ...]:
    """Without blanks at the ends, and each once."""
    return tuple(dict.fromkeys(text for line in lines if (text := line.strip())))


def count_blank(lines: Iterable[str]) -> int:
    return sum(not line.strip() for line in lines)


def repeated(values: Iterable[T]) -> set[T]:
    return {value for value, count in Counter(values).items() if count > 1}


def shortened(value: Any, width: int = 60) -> str:
    """A value for a message, as JSON where it can be."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= width else text[: width - 1] + "…"


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns whatever goes wrong while a whole file is read into a DataError that says where."""
    try:
        yield
    except DataError:
        raise
    except ENTRY_ERRORS as error:
        raise DataError(f"{where} cannot be read: {reason_of(error)}.") from error
