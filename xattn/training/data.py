"""Any dataset → pictures to train on and pictures held out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xattn import images
from xattn.datasets import Dataset, Record, read_dataset, splits_of
from xattn.errors import DataError, ImageError
from xattn.training.pictures import Dataset as Kept
from xattn.training.pictures import Picture
from xattn.training.settings import Settings
from xattn.types import Skipped

logger = logging.getLogger(__name__)

TRAIN = "train"
HELD_OUT = ("val", "valid", "validation", "dev", "test")
"""Splits to validate on, the first that there is."""
FEWEST = 8
"""Pictures to train on, and fewest held out is 2: below, nothing that is measured means anything."""


@dataclass(frozen=True, slots=True)
class OwnData:
    """train, held_out: with captions, all readable as far as was looked; skipped: left out, and why."""

    name: str
    train: tuple[Record, ...]
    held_out: tuple[Record, ...]
    skipped: tuple[Skipped, ...] = ()

    def evaluation(self) -> Dataset:
        """The held-out pictures, for `xattn.evaluation.evaluate`."""
        return Dataset(self.name, "held out", self.held_out)


def load_own(path: Path | str, settings: Settings, validate_on: str | None = None) -> OwnData:
    """Pictures without captions and missing files are left out.

    Where the data has a split "train" and one of HELD_OUT (or `validate_on`), these are used. Else a share
    is held out, chosen by a hash of each picture's name: more pictures move none of the others.
    Raises DataError if too few are left.
    """
    splits = splits_of(path)
    held_name = validate_on or next((name for name in HELD_OUT if name in splits), None)
    if validate_on is not None and not {TRAIN, validate_on} <= set(splits):
        raise DataError(
            f"{path} has the splits {splits}: expected {TRAIN!r} and {validate_on!r} among them"
        )
    if held_name is not None and TRAIN in splits:
        datasets = [read_dataset(path, split) for split in (TRAIN, held_name)]
        train, held = (list(dataset.records) for dataset in datasets)
    else:
        datasets = [read_dataset(path, TRAIN if TRAIN in splits else None)]
        train, held = _divided(datasets[0].records, settings)
    skipped = unread(*datasets)
    train, held = (usable(records, skipped) for records in (train, held))
    if settings.max_pictures:
        train, held = train[: settings.max_pictures], held[: settings.max_pictures]
    if len(train) < FEWEST or len(held) < 2:
        raise DataError(
            f"{path} has {len(train)} captioned pictures to train on and {len(held)} held out; expected at "
            f"least {FEWEST} and 2. `xattn data check {path}` tells what was found."
        )
    return OwnData(Path(path).resolve().name, tuple(train), tuple(held), tuple(skipped))


def unread(*datasets: Dataset) -> list[Skipped]:
    """Images and captions that could not be read, each once."""
    skipped = (entry for dataset in datasets for entry in dataset.skipped)
    entries = dict.fromkeys(entry for entry in skipped if entry.is_fatal or entry.kind == "picture")
    return [Skipped(Path(entry.where), entry.reason) for entry in entries]


def _divided(records: Sequence[Record], settings: Settings) -> tuple[list[Record], list[Record]]:
    captioned = [record for record in records if record.captions]
    count = min(settings.max_held_out, max(2, round(settings.held_out * len(captioned))))
    held, train = withheld(captioned, count, settings.seed)
    return train, held


def withheld(records: Sequence[Record], count: int, seed: int) -> tuple[list[Record], list[Record]]:
    """`count` of the records, which must have captions, and the others; each in the order given."""

    def draw(record: Record) -> bytes:
        # Not the whole path: the same folder elsewhere is divided the same way.
        name = f"{seed}:{record.image.name}:{record.captions[0]}"
        return hashlib.blake2b(name.encode(), digest_size=8).digest()

    chosen = {id(record) for record in sorted(records, key=draw)[:count]}
    return (
        [record for record in records if id(record) in chosen],
        [record for record in records if id(record) not in chosen],
    )


def usable(records: Sequence[Record], skipped: list[Skipped]) -> list[Record]:
    """Those with a caption and a file; the others are added to `skipped`."""
    kept = []
    for record in records:
        if not record.captions:
            skipped.append(Skipped(Path(record.label), "it has no caption"))
        elif not record.image.is_file():
            skipped.append(Skipped(Path(record.label), "there is no such file"))
        else:
            kept.append(record)
    return kept


def readable(
    records: Sequence[Record], progress: Callable[[int, int], None] | None = None
) -> tuple[list[Record], list[Skipped]]:
    """Which of the pictures can be decoded, and why the others cannot."""

    def fault(record: Record) -> Skipped | None:
        try:
            images.load(record.image, at_least=64)
        except ImageError as error:
            return Skipped(Path(record.label), error.reason)
        return None

    kept: list[Record] = []
    skipped: list[Skipped] = []
    with ThreadPoolExecutor(2) as pool:
        for done, (record, found) in enumerate(zip(records, pool.map(fault, records), strict=True), 1):
            if found is None:
                kept.append(record)
            else:
                skipped.append(found)
            if progress is not None:
                progress(done, len(records))
    return kept, skipped


def kept_form(records: Sequence[Record], split: str) -> Kept:
    """As `training.features` wants them. An id changes when the file does, so that features are renewed."""
    pictures = tuple(
        Picture(_identity(record.image), row, record.image, record.captions, {}, frozenset())
        for row, record in enumerate(records)
    )
    return Kept(split, pictures, tuple(picture.id for picture in pictures))


def _identity(path: Path) -> int:
    found = path.stat()
    text = f"{path.name}:{found.st_size}:{found.st_mtime_ns}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
