"""What a dataset is: pictures in a fixed order, with what is known of each; and what its readers share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from xattn.errors import DataError

Fractions = tuple[float, float, float, float]
"""x1, y1, x2, y2 as fractions of the picture's width and height, within [0, 1], of positive area"""


class NamedBox(NamedTuple):
    """Where something is. A name may stand in several boxes of one picture: any of them is right."""

    name: str
    box: Fractions


@dataclass(frozen=True, slots=True)
class Record:
    """One picture and what is known of it.

    boxes: of categories; phrases: of free-form phrases; num_blank: captions given that hold nothing
    """

    id: str
    image: Path
    captions: tuple[str, ...] = ()
    boxes: tuple[NamedBox, ...] = ()
    phrases: tuple[NamedBox, ...] = ()
    num_blank: int = 0


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
class Dataset:
    """Pictures in a fixed order. Hard negatives and statements name records of this dataset only."""

    name: str
    split: str | None
    records: tuple[Record, ...]
    hard_negatives: tuple[HardNegative, ...] = ()
    statements: tuple[Statement, ...] = ()


def _within(box: Sequence[int | float]) -> Fractions | None:
    """Cut to the picture; None where nothing is left."""
    x1, y1, x2, y2 = (min(max(float(side), 0.0), 1.0) for side in box)
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def named_boxes(entries: Iterable[tuple[str, Sequence[int | float]]]) -> tuple[NamedBox, ...]:
    cut = ((name, _within(box)) for name, box in entries)
    return tuple(NamedBox(name, box) for name, box in cut if box is not None)


def distinct(lines: Iterable[str]) -> tuple[str, ...]:
    """Without blanks at the ends, and each once."""
    return tuple(dict.fromkeys(text for line in lines if (text := line.strip())))


def distinct_splits(found: Iterable[object]) -> list[str]:
    return sorted({str(split) for split in found if split is not None and str(split)})


def count_blank(lines: Iterable[str]) -> int:
    return sum(not line.strip() for line in lines)


def json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file:line, object) of each line that is not blank."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            with reading(where):
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise TypeError(f"expected an object, got {type(value).__name__}")
            yield where, value


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns whatever goes wrong while a piece of a dataset is read into a DataError that says where."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"{where}: the key {error} is missing.") from error
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{where} cannot be read: {error}.") from error
