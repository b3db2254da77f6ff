"""records.jsonl: one picture a line with captions, boxes and phrases; beside it hard_negatives.jsonl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xattn.datasets.base import (
    Dataset,
    HardNegative,
    Record,
    Statement,
    count_blank,
    distinct,
    distinct_splits,
    json_lines,
    named_boxes,
    reading,
)
from xattn.errors import DataError


def read_records(folder: Path, split: str | None) -> Dataset:
    records: list[Record] = []
    splits: set[str] = set()
    for where, line in json_lines(folder / "records.jsonl"):
        with reading(where):
            splits.add(str(line.get("split")))
            if split is None or line["split"] == split:
                records.append(
                    Record(
                        id=str(line["id"]),
                        image=folder / line["image"],
                        captions=distinct(line.get("captions", ())),
                        boxes=named_boxes((b["name"], b["box"]) for b in line.get("boxes", ())),
                        phrases=named_boxes((p["phrase"], p["box"]) for p in line.get("phrases", ())),
                        num_blank=count_blank(line.get("captions", ())),
                    )
                )
    if not records:
        raise DataError(
            f"{folder / 'records.jsonl'} has no record of the split {split!r}; it has {sorted(splits)}."
            if splits
            else f"{folder / 'records.jsonl'} is empty."
        )
    known = {record.id for record in records}
    if len(known) < len(records):
        raise DataError(f"{folder / 'records.jsonl'} has several records with the same id.")
    judged = [entry for entry in _read_hard_negatives(folder) if entry.record_id in known]
    return Dataset(
        name=folder.resolve().name,
        split=split,
        records=tuple(records),
        hard_negatives=tuple(entry for entry in judged if isinstance(entry, HardNegative)),
        statements=tuple(entry for entry in judged if isinstance(entry, Statement)),
    )


def record_splits(folder: Path) -> list[str]:
    return distinct_splits(line.get("split") for _, line in json_lines(folder / "records.jsonl"))


def _read_hard_negatives(folder: Path) -> Iterator[HardNegative | Statement]:
    """Lines with `pos` and `neg`, or with `caption` and `label` (1 is true).

    Where `votes` says how many of three people found the `neg` wrong (VALSE), at least two must have.
    """
    path = folder / "hard_negatives.jsonl"
    if not path.is_file():
        return
    for where, line in json_lines(path):
        with reading(where):
            about = (str(line["id"]), str(line["set"]), str(line["kind"]))
            entry = (
                Statement(*about, line["caption"].strip(), bool(line["label"]))
                if "label" in line
                else HardNegative(*about, line["pos"].strip(), line["neg"].strip())
            )
            confirmed = line.get("votes", 3) >= 2
        if confirmed:
            yield entry
