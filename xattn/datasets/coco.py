"""COCO: captions_SPLIT.json and instances_SPLIT.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xattn.datasets.base import Dataset, Fractions, Record, count_blank, distinct, named_boxes, reading
from xattn.errors import DataError

_KINDS = ("captions", "instances")


def coco_files(folder: Path) -> dict[str, Path]:
    """Split → one annotation file of it, in the folder or in its folder "annotations"."""
    found = (
        file
        for place in (folder, folder / "annotations")
        for kind in reversed(_KINDS)  # so that captions come to stand for the split
        for file in sorted(place.glob(f"{kind}_*.json"))
    )
    return {file.stem.split("_", 1)[1]: file for file in found}


def choose(files: Mapping[str, Path], split: str | None, folder: Path) -> Path:
    if split is None and len(files) == 1:
        (split,) = files
    if split is None or split not in files:
        raise DataError(f"{folder} has the splits {sorted(files)}: expected one of them, got {split!r}.")
    return files[split]


def read_coco(path: Path, split: str | None, pictures: Path | str | None) -> Dataset:
    """Merges the captions and the instances of one split, whichever of the two files is given."""
    kind, _, name = path.stem.partition("_")
    partners = [path.with_name(f"{other}_{name}.json") for other in _KINDS if kind in _KINDS]
    listed: dict[int, Mapping[str, Any]] = {}
    captions: dict[int, list[str]] = {}
    boxes: dict[int, list[tuple[str, Sequence[int | float]]]] = {}
    for file in dict.fromkeys([path, *(partner for partner in partners if partner.is_file())]):
        with reading(str(file)):
            content = json.loads(file.read_text(encoding="utf-8"))
            listed |= {image["id"]: image for image in content["images"]}
            categories = {c["id"]: c["name"] for c in content.get("categories", ())}
            for annotation in content["annotations"]:
                owner = annotation["image_id"]
                if "caption" in annotation:
                    captions.setdefault(owner, []).append(annotation["caption"])
                elif "bbox" in annotation and not annotation.get("iscrowd"):
                    box = _coco_box(annotation["bbox"], listed[owner])
                    boxes.setdefault(owner, []).append((categories[annotation["category_id"]], box))
    if not listed:
        raise DataError(f"{path} lists no pictures.")
    folder = _coco_pictures(path, name, next(iter(listed.values()))["file_name"], pictures)
    records = tuple(
        Record(
            id=str(key),
            image=folder / image["file_name"],
            captions=distinct(captions.get(key, ())),
            boxes=named_boxes(boxes.get(key, ())),
            num_blank=count_blank(captions.get(key, ())),
        )
        for key, image in listed.items()
    )
    return Dataset(path.stem, split, records)


def _coco_box(box: Sequence[int | float], image: Mapping[str, Any]) -> Fractions:
    x, y, width, height = box
    across, down = image["width"], image["height"]
    return x / across, y / down, (x + width) / across, (y + height) / down


def _coco_pictures(path: Path, split: str, example: str, given: Path | str | None) -> Path:
    """The folder that the file names of a COCO file are relative to."""
    above = path.parent.parent
    usual = [path.parent, path.parent / "images", path.parent / split, above / split, above / "images"]
    places = [Path(given)] if given is not None else [*usual, above / "images" / split, above]
    for place in places:
        if (place / example).is_file():
            return place
    raise DataError(
        f"The pictures of {path} are not found: {example!r} is in none of "
        f"{', '.join(str(place) for place in places)}. Say where they are (pictures=...)."
    )
