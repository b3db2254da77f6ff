"""Whether the right colour is told from ten others, and whether what is there is told from what is not."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Real

from xattn.datasets import Dataset
from xattn.evaluation.encoding import EncodedPictures
from xattn.evaluation.measures import Measured
from xattn.evaluation.scoring import encode_texts
from xattn.model import XAttnModel
from xattn.model.grounding import Examined

COLOURS = ("red", "blue", "green", "yellow", "orange", "pink", "purple", "brown", "black", "white", "gray")
GROUP = "right colour of eleven"
CHANCE = 1 / len(COLOURS)
_COLOUR = re.compile(rf"\b({'|'.join(COLOURS)}|grey)\b", re.IGNORECASE)
TEXTS_AT_ONCE = 64


def measure_colours(model: XAttnModel, encoded: EncodedPictures, dataset: Dataset) -> Iterator[Measured]:
    """How often a phrase with one colour word beats its ten recoloured versions in its own picture.

    By the score, and by each part of it: the cosine of what attention reads, the pooled cosine less
    hubness, and presence (the share of attention that is not on null). Equal values are a failure.
    """
    cases = [
        (picture, recoloured(phrase))
        for picture, record in enumerate(dataset.records)
        for phrase in dict.fromkeys(named.name for named in record.phrases)
        if len(_COLOUR.findall(phrase)) == 1
    ]
    if not cases:
        return
    right: dict[str, list[float]] = {}
    for picture, texts in cases:
        found = model.examine(encoded.grids([picture]), encode_texts(model, texts))
        for part, values in _parts(found).items():
            right.setdefault(part, []).append(float((values[0, 0] > values[0, 1:]).all()))
    pictures = np.array([picture for picture, _ in cases])
    for part, firsts in right.items():
        yield Measured("right colour of eleven", "phrases", part, np.array(firsts), pictures)
    yield Measured(
        "right colour of eleven",
        "phrases",
        "chance",
        np.full(len(cases), CHANCE),
        pictures,
        is_baseline=True,
    )


def recoloured(phrase: str) -> list[str]:
    """The phrase, then the same with each other colour.

    >>> recoloured("a red bus")[:3]
    ['a red bus', 'a blue bus', 'a green bus']
    """
    word = _COLOUR.findall(phrase)[0].lower().replace("grey", "gray")
    return [phrase, *(_COLOUR.sub(colour, phrase) for colour in COLOURS if colour != word)]


def measure_presence(model: XAttnModel, encoded: EncodedPictures, dataset: Dataset) -> Iterator[Measured]:
    """The area under the curve of each part of the score, over all pairs of a picture and a category.

    That is how often a pair whose picture has the thing is above one whose picture lacks it. Pictures
    without boxes of categories are left out: nobody looked for things in them.
    """
    pictures = [picture for picture, record in enumerate(dataset.records) if record.boxes]
    names = sorted({named.name for picture in pictures for named in dataset.records[picture].boxes})
    if len(names) < 2:
        return
    held = np.array(
        [
            [name in {b.name for b in dataset.records[picture].boxes} for name in names]
            for picture in pictures
        ]
    )
    vectors = encode_texts(model, [f"{'an' if name[:1] in 'aeiou' else 'a'} {name}" for name in names])
    values: dict[str, list[Float[np.ndarray, " N"]]] = {}
    for picture in pictures:
        for part, scores in _parts(model.examine(encoded.grids([picture]), vectors)).items():
            values.setdefault(part, []).append(scores[0])
    for part, rows in values.items():
        yield Measured(
            "presence of categories",
            "area under the curve",
            part,
            np.stack([np.array(rows), held], -1),
            np.array(pictures),
            statistic=area_under_curve,
        )


def area_under_curve(
    values: Float[np.ndarray, "M N 2"], counts: Real[np.ndarray, " M"] | None = None
) -> float:
    """Share of pairs (there, not there) in which the first has the higher value; ties count half.

    values: [..., 0] scores, [..., 1] 1 where it is there; counts: how often each of the M rows is in the
    sample, once unless given. NaN without both kinds.

    >>> area_under_curve(np.array([[[0.9, 1], [0.1, 0], [0.5, 0], [0.4, 1]]]))
    0.75
    """
    rows, columns = values.shape[:2]
    once = np.ones(rows) if counts is None else np.asarray(counts, float)
    weights = np.repeat(once, columns)
    _, level = np.unique(values[..., 0].ravel(), return_inverse=True)
    there = values[..., 1].ravel() > 0
    num_levels = int(level.max(initial=-1)) + 1
    positive = np.bincount(level[there], weights[there], num_levels)
    negative = np.bincount(level[~there], weights[~there], num_levels)
    if not positive.sum() or not negative.sum():
        return float("nan")
    below = np.cumsum(negative) - negative / 2
    return float((positive * below).sum() / (positive.sum() * negative.sum()))


def _parts(found: Examined) -> dict[str, Float[np.ndarray, "B N"]]:
    """The score and what it is made of."""
    return {
        "score": found.scores.cpu().numpy(),
        "attention": (found.contributions.sum(-1) + found.rest["null"]).cpu().numpy(),
        "pooled": (found.rest["pooled"] + found.rest["hubness"]).cpu().numpy(),
        "presence": (1 - found.null_weight).cpu().numpy(),
    }
