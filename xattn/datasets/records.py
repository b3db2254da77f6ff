"""records.jsonl: one picture a line with captions, boxes and phrases; beside it hard_negatives.jsonl.

    {"id": 1, "image": "a.jpg", "split": "train", "captions": ["a dog on a sofa"],
     "boxes": [{"name": "dog", "box": [0, 0.2, 0.5, 1]}],
     "phrases": [{"phrase": "a dog", "boxes": [[0, 0.2, 0.5, 1]], "in_captions": [0]}]}

A phrase has `box` or `boxes`; in_captions counts in `captions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xattn.datasets.base import (
    Dataset,
    HardNegative,
    NamedBox,
    Record,
    Statement,
    Tally,
    box_within,
    count_blank,
    distinct,
    shortened,
    split_name,
)
from xattn.datasets.columns import picture_name, picture_path
from xattn.datasets.rows import json_rows
from xattn.datasets.text import captions_in, require_text
from xattn.errors import DataError

FILE = "records.jsonl"
HARD_NEGATIVES = "hard_negatives.jsonl"


def read_records(folder: Path) -> Dataset:
    """Lines that cannot be read are in `skipped`. Raises DataError if there are none at all."""
    tally = Tally()
    records: dict[str, Record] = {}
    for row in tally.counted(json_rows(folder / FILE)):
        with tally.using(row.where, split=split_name(row.values.get("split"))):
            record, faults = _record(row.values, folder)
            if record.id in records:
                raise ValueError(f"a line above has the same id, {record.id}")
            records[record.id] = record
            for fault in faults:
                tally.num_entries += 1
                with tally.using(row.where, "box", record.split):
                    raise fault
    if not tally.num_entries:
        raise DataError(f"{folder / FILE} is empty.")
    judged = list(_hard_negatives(folder / HARD_NEGATIVES, records, tally))
    return replace(
        tally.dataset(folder.resolve().name, records.values(), folder / FILE),
        hard_negatives=tuple(entry for entry in judged if isinstance(entry, HardNegative)),
        statements=tuple(entry for entry in judged if isinstance(entry, Statement)),
    )


def _record(line: Mapping[str, Any], folder: Path) -> tuple[Record, list[ValueError]]:
    """The record, and what is wrong with boxes that it is without."""
    given = captions_in(line.get("captions", line.get("caption")))
    captions = distinct(given)
    faults: list[ValueError] = []
    boxes = _boxes(_objects(line, "boxes"), "name", faults)
    phrases = _boxes(_objects(line, "phrases"), "phrase", faults)
    place = [captions.index(text.strip()) if text.strip() else None for text in given]
    record = Record(
        id=str(line["id"]),
        image=picture_path(folder, picture_name(line["image"])),
        captions=captions,
        boxes=tuple(NamedBox(name, box) for name, box, _ in boxes),
        phrases=tuple(NamedBox(name, box, _moved(inside, place)) for name, box, inside in phrases),
        num_blank=count_blank(given),
        split=split_name(line.get("split")),
    )
    return record, faults


def _objects(line: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = line.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise TypeError(f"expected {key!r} to be a list of objects, got {shortened(value)}")
    return value


def _boxes(
    entries: Sequence[Mapping[str, Any]], key: str, faults: list[ValueError]
) -> Iterator[tuple[str, tuple[float, float, float, float], Sequence[int]]]:
    for entry in entries:
        try:
            if not isinstance(entry.get(key), str):
                raise ValueError(f"expected a name under {key!r}, got {shortened(entry)}")
            several = entry["boxes"] if "boxes" in entry else [entry["box"]]
            if not isinstance(several, list):
                raise ValueError(f"expected a list of boxes, got {shortened(several)}")
            inside = entry.get("in_captions") or []
            if not isinstance(inside, list) or not all(type(number) is int for number in inside):
                raise ValueError(f"expected a list of numbers of captions, got {shortened(inside)}")
        except (KeyError, ValueError) as error:
            faults.append(ValueError(str(error)))
            continue
        for box in several:
            try:
                yield require_text(entry[key]), box_within(box), inside
            except ValueError as error:
                faults.append(ValueError(f"{shortened(entry[key])}: {error}"))


def _moved(inside: Sequence[int], place: Sequence[int | None]) -> tuple[int, ...]:
    """Indices into the given captions as indices into the distinct ones."""
    moved = (place[number] for number in inside if 0 <= number < len(place))
    return tuple(sorted({number for number in moved if number is not None}))


def _hard_negatives(
    path: Path, records: Mapping[str, Record], tally: Tally
) -> Iterator[HardNegative | Statement]:
    """Lines with `pos` and `neg`, or with `caption` and `label` (1 is true).

    Where `votes` says how many of three people found the `neg` wrong (VALSE), at least two must have.
    """
    if not path.is_file():
        return
    for row in tally.counted(json_rows(path)):
        with tally.using(row.where, "negative"):
            line = row.values
            about = (str(line["id"]), str(line["set"]), str(line["kind"]))
            if about[0] not in records:
                raise ValueError(f"no record has the id {about[0]}")
            entry = (
                Statement(*about, _text(line, "caption"), bool(line["label"]))
                if "label" in line
                else HardNegative(*about, _text(line, "pos"), _text(line, "neg"))
            )
            if line.get("votes", 3) >= 2:
                yield entry


def _text(line: Mapping[str, Any], key: str) -> str:
    value = line[key]
    if not isinstance(value, str):
        raise TypeError(f"expected {key!r} to be a string, got {type(value).__name__}")
    return require_text(value.strip())
