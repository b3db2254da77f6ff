"""COCO: captions_SPLIT.json and instances_SPLIT.json, or one file of that form."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xattn.datasets.base import (
    Dataset,
    NamedBox,
    Record,
    Tally,
    box_within,
    count_blank,
    distinct,
    reading,
    shortened,
)
from xattn.datasets.columns import is_file, picture_name, picture_path
from xattn.datasets.text import captions_in, decode, require_text
from xattn.errors import DataError

_KINDS = ("captions", "instances")
_YEAR = re.compile(r"20\d\d$")
_MOST_EXAMPLES = 100
"""Pictures by which their folder is found."""


def coco_files(folder: Path) -> dict[str, Path]:
    """Split → one annotation file of it, in the folder or in its folder "annotations".

    "train2017" is the split "train", unless there is a train2014, too.
    """
    files = {
        file.stem.split("_", 1)[1]: file
        for place in (folder, folder / "annotations")
        for kind in reversed(_KINDS)  # so that captions come to stand for the split
        for file in sorted(place.glob(f"{kind}_*.json"))
    }
    num_short = Counter(_YEAR.sub("", name) for name in files)

    def split_of(name: str) -> str:
        short = _YEAR.sub("", name)
        return short if short and num_short[short] == 1 else name

    return {split_of(name): file for name, file in files.items()}


def choose(files: Mapping[str, Path], split: str | None, folder: Path) -> Path:
    """The file of a split; its name may have the year or not. Raises DataError if there is none."""
    if split is None and len(files) == 1:
        (split,) = files
    for name, file in files.items():
        if split in (name, file.stem.split("_", 1)[1]):
            return file
    raise DataError(f"{folder} has the splits {sorted(files)}: expected one of them, got {split!r}.")


def is_coco(content: object) -> bool:
    """Whether a parsed file has COCO's form."""
    return (
        isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" in content
    )


def read_coco(path: Path, split: str | None, pictures: Path | str | None) -> Dataset:
    """Merges the captions and the instances of one split, whichever of the two files is given.

    Odd images and annotations are in `skipped`; regions of crowds are no entries. Raises DataError if the
    file as a whole cannot be read or its pictures are not where they are expected.
    """
    kind, _, name = path.stem.partition("_")
    partners = [path.with_name(f"{other}_{name}.json") for other in _KINDS if kind in _KINDS]
    contents = {
        file: _content(file)
        for file in dict.fromkeys([path, *(partner for partner in partners if partner.is_file())])
    }
    tally = Tally()
    listed: dict[str, _Image] = {}
    for file, content in contents.items():
        _add_images(file, content["images"], listed, tally)
    if not listed and not tally.num_entries:
        raise DataError(f"{path} lists no pictures.")
    for file, content in contents.items():
        _add_annotations(file, content, listed, tally)
    folder = _picture_folder(path, name, [image.name for image in listed.values()], pictures)
    records = (
        Record(
            id=key,
            image=picture_path(folder, image.name),
            captions=distinct(image.captions),
            boxes=tuple(image.boxes),
            num_blank=count_blank(image.captions),
            split=split,
        )
        for key, image in listed.items()
    )
    return tally.dataset(path.stem, records, path)


@dataclass(slots=True)
class _Image:
    name: str
    file: Path
    size: tuple[object, object]
    captions: list[str] = field(default_factory=list)
    boxes: list[NamedBox] = field(default_factory=list)

    def fractions(self, box: object) -> tuple[float, float, float, float]:
        """A box (x, y, width, height) in pixels as fractions of the picture."""
        if not isinstance(box, Sequence) or isinstance(box, str) or len(box) != 4:
            raise ValueError(f"expected a bbox of 4 numbers, got {shortened(box)}")
        width, height = self.size
        if not isinstance(width, int | float) or not isinstance(height, int | float):
            raise ValueError(f"its picture, {self.name}, has no width and height")
        if not (width > 0 and height > 0):
            raise ValueError(f"its picture, {self.name}, has the size {width} × {height}")
        x, y, across, down = box
        return box_within([x / width, y / height, (x + across) / width, (y + down) / height])


def _content(path: Path) -> dict[str, Any]:
    with reading(str(path)):
        content = json.loads(decode(path.read_bytes()))
    if not is_coco(content):
        raise DataError(
            f"{path} cannot be read: expected COCO's form, an object with the lists 'images' and "
            f"'annotations'; got {shortened(content)}."
        )
    return content


def _named(file: Path, what: str, entry: object, place: int) -> str:
    """How messages call an image or annotation: by its id, else by its place in the list."""
    if isinstance(entry, dict) and isinstance(entry.get("id"), int | str):
        return f"{file}, {what} with the id {entry['id']}"
    return f"{file}, {what} {place + 1} of the list"


def _key(value: object) -> str:
    """An id; files of one dataset may differ in whether they write it as a number or as a string."""
    if not isinstance(value, int | str):
        raise ValueError(f"expected an id, got {shortened(value)}")
    return str(value)


def _add_images(file: Path, entries: Sequence[object], listed: dict[str, _Image], tally: Tally) -> None:
    for place, entry in enumerate(tally.counted(entries)):
        with tally.using(_named(file, "image", entry, place)):
            if not isinstance(entry, dict):
                raise TypeError(f"expected an object, got {shortened(entry)}")
            key, name = _key(entry["id"]), picture_name(entry["file_name"])
            other = listed.get(key)
            if other is None:
                listed[key] = _Image(name, file, (entry.get("width"), entry.get("height")))
            elif other.file == file or other.name != name:
                raise ValueError(f"another image, {other.name}, has the same id")


def _add_annotations(
    file: Path, content: Mapping[str, Any], listed: Mapping[str, _Image], tally: Tally
) -> None:
    categories = dict(_categories(content.get("categories")))
    if not isinstance(content["annotations"], list):
        raise DataError(f"{file} cannot be read: expected 'annotations' to be a list.")
    entries = (entry for entry in content["annotations"] if not _is_crowd(entry))
    for place, entry in enumerate(tally.counted(entries)):
        has_caption = isinstance(entry, dict) and "caption" in entry
        where = _named(file, "annotation", entry, place)
        with tally.using(where, "caption" if has_caption else "box"):
            if not isinstance(entry, dict):
                raise TypeError(f"expected an object, got {shortened(entry)}")
            owner = _key(entry["image_id"])
            if owner not in listed:
                raise ValueError(f"its picture, {owner}, is not listed or cannot be used")
            if has_caption:
                if entry["caption"] is None:
                    raise ValueError("the caption is null")
                listed[owner].captions.extend(captions_in(entry["caption"]))
            else:
                listed[owner].boxes.append(_box(entry, categories, listed[owner]))


def _categories(entries: object) -> Iterator[tuple[str, str]]:
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield str(entry.get("id")), entry["name"]


def _is_crowd(entry: object) -> bool:
    return isinstance(entry, dict) and "caption" not in entry and bool(entry.get("iscrowd"))


def _box(entry: Mapping[str, Any], categories: Mapping[str, str], image: _Image) -> NamedBox:
    if "bbox" not in entry:
        raise ValueError("it has neither a caption nor a bbox")
    category = str(entry.get("category_id"))
    if category not in categories:
        raise ValueError(f"its category, {category}, is not listed")
    return NamedBox(require_text(categories[category]), image.fractions(entry["bbox"]))


def _picture_folder(path: Path, split: str, names: Sequence[str], given: Path | str | None) -> Path:
    """The folder that the file names of a COCO file are relative to."""
    above = path.parent.parent
    usual = [path.parent, path.parent / "images", path.parent / split, above / split, above / "images"]
    places = [Path(given)] if given is not None else [*usual, above / "images" / split, above]
    for place in places:
        if any(is_file(picture_path(place, name)) for name in names[:_MOST_EXAMPLES]):
            return place
    if not names:
        return places[0]
    raise DataError(
        f"The pictures of {path} are not found: {names[0]!r} is in none of "
        f"{', '.join(str(place) for place in places)}. Say where they are (pictures=...)."
    )
