"""Where things are found, beside where one would point without being told what to find."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float

from xattn import geometry, metrics
from xattn.datasets import Dataset, NamedBox, Record
from xattn.evaluation.encoding import EncodedPictures
from xattn.evaluation.measures import Measured, OnProgress, Settings
from xattn.evaluation.scoring import encode_texts
from xattn.model import XAttnModel
from xattn.types import Grounding, Phrase

Boxes = Float[np.ndarray, "n 4"]

MODEL, CENTER, RANDOM, LARGEST = "model", "picture centre", "random place", "largest region"
POINTING, ENERGY, BOX = "pointing game", "energy in box", "box accuracy at IoU 0.5"
CENTER_BOX = np.array([0.25, 0.25, 0.75, 0.75])
SMALL = 0.02
"""Share of the picture that the boxes of a small thing cover together."""
WHOLE_PICTURE = np.array([0.0, 0.0, 1.0, 1.0])


def measure_grounding(
    model: XAttnModel, encoded: EncodedPictures, dataset: Dataset, settings: Settings, progress: OnProgress
) -> Iterator[Measured]:
    """Category names and free phrases, each asked of every picture that has a box for it.

    The prompt is the name itself; one case is one name in one picture, and any of its boxes is right.
    Beside the model stand answers that know nothing of the prompt:
    - picture centre: points there, with a map and a box of half the picture's width and height;
    - random place: a map without any preference, whose box is the whole picture;
    - largest region: the largest box known of the picture, whatever it is called; points at its centre.
    """
    kinds = (("categories", _categories), ("phrases", _phrases))
    for kind, named in kinds:
        wanted = [
            (i, boxes) for i, record in enumerate(dataset.records) if (boxes := _by_name(named(record)))
        ]
        if not wanted:
            continue
        names = sorted({name for _, boxes in wanted for name in boxes})
        vectors = encode_texts(model, names)
        row = {name: i for i, name in enumerate(names)}
        cases: dict[tuple[str, str], list[float]] = {}
        pictures: list[int] = []
        areas: list[float] = []
        for done, (picture, boxes) in enumerate(wanted, 1):
            asked = [Phrase(name, 0, len(name), "whole") for name in boxes]
            embeddings = vectors[[row[name] for name in boxes]]
            # On a picture of size 1 by 1, pixels are fractions.
            grid = encoded.grids([picture])
            groundings = model.ground_regions(grid, asked, [(1, 1)], embeddings)[0]
            largest = _largest(dataset.records[picture])
            for grounding, right in zip(groundings, boxes.values(), strict=True):
                for key, value in _judge(grounding, right, largest, settings).items():
                    cases.setdefault(key, []).append(value)
                pictures.append(picture)
                areas.append(float(geometry.area_share(right)))
            progress(f"grounding {kind}", done, len(wanted))
        small = np.array(areas) < SMALL
        for subject in (MODEL, CENTER) if small.any() else ():
            yield Measured(
                f"grounding: {kind} below {SMALL:.0%} of the picture",
                POINTING,
                subject,
                np.array(cases[POINTING, subject], float)[small],
                np.array(pictures)[small],
                reference=CENTER if subject == MODEL else None,
                is_baseline=subject != MODEL,
            )
        for (measure, subject), values in cases.items():
            yield Measured(
                f"grounding: {kind}",
                measure,
                subject,
                np.array(values, float),
                np.array(pictures),
                reference=CENTER if subject == MODEL else None,
                is_baseline=subject != MODEL,
            )


def _categories(record: Record) -> Iterable[NamedBox]:
    return record.boxes


def _phrases(record: Record) -> Iterable[NamedBox]:
    return record.phrases


def _by_name(boxes: Iterable[NamedBox]) -> dict[str, Boxes]:
    grouped: dict[str, list[tuple[float, float, float, float]]] = {}
    for name, box, _ in boxes:
        grouped.setdefault(name, []).append(box)
    return {name: np.array(found) for name, found in grouped.items()}


def _largest(record: Record) -> Float[np.ndarray, " 4"]:
    return np.array(
        max(
            (named.box for named in (*record.boxes, *record.phrases)),
            key=lambda box: (box[2] - box[0]) * (box[3] - box[1]),
        )
    )


def _judge(
    grounding: Grounding, right: Boxes, largest: Float[np.ndarray, " 4"], settings: Settings
) -> dict[tuple[str, str], float]:
    """(measure, who answered) → what the answer is worth."""
    found = np.array([scored.box for scored in grounding.boxes], float).reshape(-1, 4)
    share = geometry.area_share(right)

    def points(box: Float[np.ndarray, " 4"]) -> float:
        center = (float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
        return float(geometry.point_in_boxes(center, right, settings.pointing_tolerance))

    return {
        (POINTING, MODEL): metrics.pointing_game(grounding.weights, right, settings.pointing_tolerance),
        (POINTING, CENTER): points(CENTER_BOX),
        (POINTING, RANDOM): share,
        (POINTING, LARGEST): points(largest),
        (ENERGY, MODEL): geometry.weight_in_boxes(grounding.weights, right),
        (ENERGY, CENTER): geometry.share_of_box(CENTER_BOX, right),
        (ENERGY, RANDOM): share,
        (ENERGY, LARGEST): geometry.share_of_box(largest, right),
        (BOX, MODEL): metrics.box_accuracy(found, right),
        (BOX, CENTER): metrics.box_accuracy(CENTER_BOX[None], right),
        (BOX, RANDOM): metrics.box_accuracy(WHOLE_PICTURE[None], right),
        (BOX, LARGEST): metrics.box_accuracy(largest[None], right),
    }
