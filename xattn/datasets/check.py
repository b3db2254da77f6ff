"""What is wrong with a dataset, told before hours are spent on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from xattn import images
from xattn.datasets import read_dataset, splits_of
from xattn.datasets.base import Dataset
from xattn.errors import ImageError
from xattn.images.similar import HASH_SIDE, NearDuplicate, difference_hash, near_duplicates
from xattn.types import Skipped


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
    """near_duplicates: across splits; in data without splits among all pictures, of which training would
    hold some out."""

    splits: list[SplitReport] = field(default_factory=list)
    near_duplicates: list[NearDuplicate] = field(default_factory=list)

    @property
    def is_usable(self) -> bool:
        """Whether every picture can be read and has a caption, and no split holds another's pictures."""
        faults = any(s.missing or s.broken or s.without_caption or s.num_blank for s in self.splits)
        return not faults and not (self.near_duplicates and self.has_splits)

    @property
    def has_splits(self) -> bool:
        return len(self.splits) > 1


def check_dataset(
    path: Path | str,
    *,
    pictures: Path | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> CheckReport:
    """Reads every picture of every split once. Raises DataError where the layout itself cannot be read."""
    report = CheckReport()
    hashes: list[tuple[list[Path], UInt8[np.ndarray, "N 8"]]] = []
    splits: list[str | None] = [*splits_of(path)]
    for split in splits or [None]:
        found, paths, hashed = _check_split(read_dataset(path, split, pictures=pictures), split, progress)
        report.splits.append(found)
        hashes.append((paths, hashed))
    if not report.has_splits:
        report.near_duplicates.extend(near_duplicates(*hashes[0], *hashes[0]))
    for index, first in enumerate(hashes):
        for second in hashes[index + 1 :]:
            report.near_duplicates.extend(near_duplicates(*first, *second))
    return report


def _check_split(
    dataset: Dataset, split: str | None, progress: Callable[[str, int, int], None] | None
) -> tuple[SplitReport, list[Path], UInt8[np.ndarray, "N 8"]]:
    report = SplitReport(split or "all", num_pictures=len(dataset.records))
    report.num_captions = sum(len(record.captions) for record in dataset.records)
    report.num_blank = sum(record.num_blank for record in dataset.records)
    report.without_caption = [record.image for record in dataset.records if not record.captions]
    counts = Counter(caption for record in dataset.records for caption in record.captions)
    report.shared_captions = [(text, count) for text, count in counts.most_common() if count > 1]
    paths: list[Path] = []
    hashes: list[UInt8[np.ndarray, " 8"]] = []
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(_looked_at, (record.image for record in dataset.records))
        for done, (record, result) in enumerate(zip(dataset.records, found, strict=True), 1):
            if result is None:
                report.missing.append(record.image)
            elif isinstance(result, Skipped):
                report.broken.append(result)
            else:
                paths.append(record.image)
                hashes.append(result)
            if progress is not None:
                progress(f"checking {report.name}", done, len(dataset.records))
    return report, paths, np.array(hashes, np.uint8).reshape(-1, HASH_SIDE)


def _looked_at(path: Path) -> UInt8[np.ndarray, " 8"] | Skipped | None:
    """Its hash; or what is wrong with it; or None if it is not there."""
    if not path.is_file():
        return None
    try:
        return difference_hash(images.load(path, at_least=64).picture)
    except ImageError as error:
        return Skipped(path, error.reason)
