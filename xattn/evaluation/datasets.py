"""What a model is evaluated on: pictures with captions, boxes and hard negatives, from three layouts.

DIR/records.jsonl                  one object a line; beside it hard_negatives.jsonl, if there is one
captions_*.json, instances_*.json  COCO; the file or a folder that holds it
DIR/**/picture.jpg + picture.txt   any folder; each line of the text is a caption
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from xattn import images
from xattn.errors import DataError
from xattn.types import Skipped

logger = logging.getLogger(__name__)

Fractions = tuple[float, float, float, float]
"""x1, y1, x2, y2 as fractions of the picture's width and height, within [0, 1], of positive area"""


class NamedBox(NamedTuple):
    """Where something is. A name may stand in several boxes of one picture: any of them is right."""

    name: str
    box: Fractions


@dataclass(frozen=True, slots=True)
class Record:
    """One picture and what is known of it.

    boxes: of categories; phrases: of free-form phrases
    """

    id: str
    image: Path
    captions: tuple[str, ...] = ()
    boxes: tuple[NamedBox, ...] = ()
    phrases: tuple[NamedBox, ...] = ()


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


def load_dataset(
    path: Path | str, split: str | None = None, *, pictures: Path | str | None = None
) -> Dataset:
    """Reads any of the layouts of the module docstring.

    split:    keeps the records of that split; for COCO the part of the file name after "captions_" or
              "instances_"; for a folder with captions, a folder in it
    pictures: where the pictures of a COCO file are, if not in one of the usual places beside it
    Raises DataError if the layout is not known, a line cannot be read, or a picture is missing.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".json":
        dataset = _read_coco(path, split, pictures)
    elif (path / "records.jsonl").is_file():
        dataset = _read_records(path, split)
    elif path.is_dir():
        annotated = _coco_files(path)
        if annotated:
            dataset = _read_coco(_choose(annotated, split, path), split, pictures)
        else:
            dataset = _read_folder(path, split)
    else:
        raise DataError(
            f"{path} is no dataset: expected a folder with records.jsonl, a COCO .json file, or a folder "
            "of pictures with a .txt file of captions beside each; found "
            f"{'another kind of file' if path.exists() else 'nothing there'}."
        )
    missing = [record.image for record in dataset.records if not record.image.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(dataset.records)} pictures of {path} are missing; the first is "
            f"{missing[0]}."
        )
    return dataset


def _within(box: Sequence[int | float]) -> Fractions | None:
    """Cut to the picture; None where nothing is left."""
    x1, y1, x2, y2 = (min(max(float(side), 0.0), 1.0) for side in box)
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def _named_boxes(entries: Iterable[tuple[str, Sequence[int | float]]]) -> tuple[NamedBox, ...]:
    cut = ((name, _within(box)) for name, box in entries)
    return tuple(NamedBox(name, box) for name, box in cut if box is not None)


def _captions(lines: Iterable[str]) -> tuple[str, ...]:
    """Without blanks at the ends, and each once."""
    return tuple(dict.fromkeys(text for line in lines if (text := line.strip())))


# --- records.jsonl ----------------------------------------------------------------------------------


def _read_records(folder: Path, split: str | None) -> Dataset:
    records: list[Record] = []
    splits: set[str] = set()
    for where, line in _json_lines(folder / "records.jsonl"):
        with _reading(where):
            splits.add(str(line.get("split")))
            if split is None or line["split"] == split:
                records.append(
                    Record(
                        id=str(line["id"]),
                        image=folder / line["image"],
                        captions=_captions(line.get("captions", ())),
                        boxes=_named_boxes((b["name"], b["box"]) for b in line.get("boxes", ())),
                        phrases=_named_boxes((p["phrase"], p["box"]) for p in line.get("phrases", ())),
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


def _read_hard_negatives(folder: Path) -> Iterator[HardNegative | Statement]:
    """Lines with `pos` and `neg`, or with `caption` and `label` (1 is true).

    Where `votes` says how many of three people found the `neg` wrong (VALSE), at least two must have.
    """
    path = folder / "hard_negatives.jsonl"
    if not path.is_file():
        return
    for where, line in _json_lines(path):
        with _reading(where):
            about = (str(line["id"]), str(line["set"]), str(line["kind"]))
            entry = (
                Statement(*about, line["caption"].strip(), bool(line["label"]))
                if "label" in line
                else HardNegative(*about, line["pos"].strip(), line["neg"].strip())
            )
            confirmed = line.get("votes", 3) >= 2
        if confirmed:
            yield entry


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file:line, object) of each line that is not blank."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            with _reading(where):
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise TypeError(f"expected an object, got {type(value).__name__}")
            yield where, value


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turns whatever goes wrong while a piece of a dataset is read into a DataError that says where."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"{where}: the key {error} is missing.") from error
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{where} cannot be read: {error}.") from error


# --- COCO -------------------------------------------------------------------------------------------

_KINDS = ("captions", "instances")


def _coco_files(folder: Path) -> dict[str, Path]:
    """Split → one annotation file of it, in the folder or in its folder "annotations"."""
    found = (
        file
        for place in (folder, folder / "annotations")
        for kind in reversed(_KINDS)  # so that captions come to stand for the split
        for file in sorted(place.glob(f"{kind}_*.json"))
    )
    return {file.stem.split("_", 1)[1]: file for file in found}


def _choose(files: Mapping[str, Path], split: str | None, folder: Path) -> Path:
    if split is None and len(files) == 1:
        (split,) = files
    if split is None or split not in files:
        raise DataError(f"{folder} has the splits {sorted(files)}: expected one of them, got {split!r}.")
    return files[split]


def _read_coco(path: Path, split: str | None, pictures: Path | str | None) -> Dataset:
    """Merges the captions and the instances of one split, whichever of the two files is given."""
    kind, _, name = path.stem.partition("_")
    partners = [path.with_name(f"{other}_{name}.json") for other in _KINDS if kind in _KINDS]
    listed: dict[int, Mapping[str, Any]] = {}
    captions: dict[int, list[str]] = {}
    boxes: dict[int, list[tuple[str, Sequence[int | float]]]] = {}
    for file in dict.fromkeys([path, *(partner for partner in partners if partner.is_file())]):
        with _reading(str(file)):
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
            captions=_captions(captions.get(key, ())),
            boxes=_named_boxes(boxes.get(key, ())),
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


# --- a folder with captions -------------------------------------------------------------------------


def _read_folder(folder: Path, split: str | None) -> Dataset:
    root = folder if split is None else folder / split
    if not root.is_dir():
        raise DataError(f"{folder} has no split {split!r}: expected a folder of that name in it.")
    records: list[Record] = []
    for found in images.scan([root]):
        if isinstance(found, Skipped):
            logger.debug("%s is left out: %s", found.path, found.reason)
            continue
        texts = found.with_suffix(".txt")
        with _reading(str(texts)):
            lines = texts.read_text(encoding="utf-8").splitlines() if texts.is_file() else []
        records.append(Record(str(found), found, _captions(lines)))
    if not any(record.captions for record in records):
        raise DataError(
            f"{root} has no captions: expected a file such as dog.txt beside dog.jpg, with a caption on "
            f"each line; found {len(records)} pictures without one."
        )
    return Dataset(root.resolve().name, split, tuple(records))
