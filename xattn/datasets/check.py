"""Faults of a dataset, listed before hours are spent on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from xattn import images
from xattn.datasets.base import Record, SkippedEntry
from xattn.datasets.columns import is_file
from xattn.datasets.layout import read_parts
from xattn.errors import ImageError
from xattn.images.similar import HASH_SIDE, NearDuplicate, difference_hash, near_duplicates
from xattn.types import Skipped

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""

WITHOUT_SPLIT = "no split"
"""Records that name no split, in data where others do."""


@dataclass(slots=True)
class SplitReport:
    """One split. shared_captions: texts that more than one picture has, with how many have it."""

    name: str
    num_pictures: int = 0
    num_captions: int = 0
    missing: list[Path] = field(default_factory=list)
    broken: list[Skipped] = field(default_factory=list)
    without_caption: list[Path] = field(default_factory=list)
    num_blank: int = 0
    shared_captions: list[tuple[str, int]] = field(default_factory=list)


@dataclass(slots=True)
class CheckReport:
    """The result of `check_dataset`.

    sources:         files or folders that were read
    skipped:         entries that were not read, each once
    num_entries, num_used: of the whole dataset; see `Dataset`
    unlisted:        picture files beside listed ones that no record has
    near_duplicates: across splits; in data without splits among all pictures, of which training would hold
                     some out
    """

    splits: list[SplitReport] = field(default_factory=list)
    near_duplicates: list[NearDuplicate] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    skipped: list[SkippedEntry] = field(default_factory=list)
    num_entries: int = 0
    num_used: int = 0
    unlisted: list[Path] = field(default_factory=list)

    @property
    def num_unaccounted(self) -> int:
        """Entries that are neither read nor named. Anything but 0 is a fault of a reader."""
        return self.num_entries - self.num_used - sum(entry.kind != "file" for entry in self.skipped)

    @property
    def is_usable(self) -> bool:
        """Whether every picture and caption can be read, every picture has a caption, and no split holds
        another's pictures."""
        faults = any(s.missing or s.broken or s.without_caption or s.num_blank for s in self.splits)
        faults = faults or not any(split.num_pictures for split in self.splits)
        faults = faults or any(entry.is_fatal or entry.kind == "picture" for entry in self.skipped)
        faults = faults or self.num_unaccounted != 0
        return not faults and not (self.near_duplicates and self.has_splits)

    @property
    def has_splits(self) -> bool:
        return len(self.splits) > 1

    @property
    def is_flawless(self) -> bool:
        """Whether there is nothing that a person might want to look at."""
        return self.is_usable and not (self.near_duplicates or self.skipped or self.unlisted)


def check_dataset(
    path: Path | str,
    *,
    pictures: Path | str | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Reads every picture of every split once. Raises DataError where the layout itself cannot be read."""
    report = CheckReport()
    by_split: dict[str | None, list[Record]] = {}
    for dataset in read_parts(path, pictures=pictures):
        report.sources.append(dataset.source)
        report.skipped.extend(dataset.skipped)
        report.num_entries += dataset.num_entries
        report.num_used += dataset.num_used
        for record in dataset.records:
            by_split.setdefault(record.split, []).append(record)
    hashes: list[tuple[list[Path], UInt8[np.ndarray, "N 8"]]] = []
    for split in sorted(by_split, key=lambda name: (name is None, name)):
        name = split or (WITHOUT_SPLIT if len(by_split) > 1 else "all")
        checked, paths, hashed = _check_split(name, by_split[split], progress)
        report.splits.append(checked)
        hashes.append((paths, hashed))
    if not report.splits:
        report.splits.append(SplitReport("all"))
    elif not report.has_splits:
        report.near_duplicates.extend(near_duplicates(*hashes[0], *hashes[0]))
    for index, first in enumerate(hashes):
        for second in hashes[index + 1 :]:
            report.near_duplicates.extend(near_duplicates(*first, *second))
    report.unlisted = _unlisted([record for records in by_split.values() for record in records])
    return report


def _check_split(
    name: str, records: Sequence[Record], progress: Progress | None
) -> tuple[SplitReport, list[Path], UInt8[np.ndarray, "N 8"]]:
    report = SplitReport(name, num_pictures=len(records))
    report.num_captions = sum(len(record.captions) for record in records)
    report.num_blank = sum(record.num_blank for record in records)
    report.without_caption = [Path(record.label) for record in records if not record.captions]
    counts = Counter(caption for record in records for caption in record.captions)
    report.shared_captions = [(text, count) for text, count in counts.most_common() if count > 1]
    paths: list[Path] = []
    hashes: list[UInt8[np.ndarray, " 8"]] = []
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(_hash_or_fault, (record.image for record in records))
        for done, (record, result) in enumerate(zip(records, results, strict=True), 1):
            if result is None:
                report.missing.append(Path(record.label))
            elif isinstance(result, Skipped):
                report.broken.append(Skipped(Path(record.label), result.reason))
            else:
                paths.append(Path(record.label))
                hashes.append(result)
            if progress is not None:
                progress(f"checking {report.name}", done, len(records))
    return report, paths, np.array(hashes, np.uint8).reshape(-1, HASH_SIDE)


def _hash_or_fault(path: Path) -> UInt8[np.ndarray, " 8"] | Skipped | None:
    """Its hash; or what is wrong with it; or None if it is not there."""
    if not is_file(path):
        return None
    try:
        return difference_hash(images.load(path, at_least=64).picture)
    except ImageError as error:
        return Skipped(path, error.reason)


def _unlisted(records: Iterable[Record]) -> list[Path]:
    """Picture files that lie beside a record's and are no record's themselves."""
    listed = {record.image.absolute() for record in records if not record.origin}
    folders = sorted({image.parent for image in listed if image.parent.is_dir()})
    files = (file for folder in folders for file in sorted(folder.iterdir()))
    return [file for file in files if file not in listed and _is_picture(file)]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in images.EXTENSIONS and not path.name.startswith(".") and path.is_file()
