"""A folder of pictures with a file of captions beside each (`sidecars`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from xattn import images
from xattn.datasets import sidecars
from xattn.datasets.base import Dataset, Record, SkippedEntry, Tally, count_blank, distinct
from xattn.datasets.splits import SPLITS
from xattn.errors import DataError
from xattn.types import Skipped


def read_folder(folder: Path, split: str | None) -> Dataset:
    """Pictures without captions are records, too. A text that belongs to no picture is named in `skipped`.

    split: a folder in it, of any name. Raises DataError if nothing has captions.
    """
    root = folder if split is None else folder / split
    if not root.is_dir():
        raise DataError(f"{folder} has no split {split!r}: expected a folder of that name in it.")
    tally = Tally()
    pictures = [str(path) for path in tally.counted(map(_entry, images.scan([root])))]
    tally.num_used += len(pictures)
    lines = _captions(_sidecar_files(root, pictures), pictures, tally)
    has_faults = any(entry.kind == "caption" for entry in tally.skipped)
    if not has_faults and not any(text.strip() for texts in lines.values() for text in texts):
        raise DataError(
            f"{root} has no captions: expected a file such as dog.txt beside dog.jpg, with a caption on "
            f"each line; found {len(pictures)} pictures without one."
        )
    records = (
        Record(
            picture,
            Path(picture),
            distinct(lines.get(picture, ())),
            num_blank=count_blank(lines.get(picture, ())),
            split=split or _split_of(root, Path(picture)),
        )
        for picture in pictures
    )
    return tally.dataset(root.resolve().name, records, root)


def folder_splits(folder: Path) -> list[str]:
    """Folders in it that are called as splits are."""
    return [name for name in SPLITS if (folder / name).is_dir()]


def has_captions(folder: Path) -> bool:
    """Whether any picture in the folder or below has a file of captions beside it, by their names."""
    for _, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        files = [name for name in names if sidecars.is_sidecar(name)]
        if files and any(sidecars.pictures_of(files, filter(sidecars.is_picture, names)).values()):
            return True
    return False


def _entry(scanned: Path | Skipped) -> Path | SkippedEntry:
    if isinstance(scanned, Skipped):
        return SkippedEntry(str(scanned.path), scanned.reason, "picture")
    return scanned


def _sidecar_files(root: Path, pictures: Iterable[str]) -> list[str]:
    """Files of captions below `root`, hidden ones and the usual notes about a folder left out."""
    folders = {os.path.dirname(picture) for picture in pictures}
    for place, below, _ in os.walk(os.path.abspath(root)):
        below[:] = [name for name in below if not name.startswith(".")]
        folders.add(place)
    files = (os.path.join(place, name) for place in sorted(folders) for name in sorted(os.listdir(place)))
    return [file for file in files if sidecars.is_sidecar(file) and not is_about_folder(Path(file))]


def is_about_folder(path: Path) -> bool:
    """Whether a file is hidden, or tells about the folder rather than about pictures."""
    name = path.name.lower()
    return name.startswith((".", "readme", "license", "licence", "credits", "notes", "requirements"))


def _captions(files: list[str], pictures: list[str], tally: Tally) -> dict[str, list[str]]:
    lines: dict[str, list[str]] = {}
    for file, described in sidecars.pictures_of(files, pictures).items():
        if not described:
            if Path(file).suffix.lower() in sidecars.TEXT_SUFFIXES:
                tally.note(file, "there is no picture of that name beside it")
            continue
        tally.num_entries += 1
        with tally.using(file, "caption"):
            captions = sidecars.sidecar_captions(file, Path(file).read_bytes())
            for picture in described:
                lines.setdefault(picture, []).extend(captions)
    return lines


def _split_of(root: Path, picture: Path) -> str | None:
    try:
        folders = picture.relative_to(os.path.abspath(root)).parts[:-1]
    except ValueError:  # reached through a link
        return None
    return folders[0] if folders and folders[0] in SPLITS else None
