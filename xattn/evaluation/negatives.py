"""Whether a true caption is told from one that is subtly wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from jaxtyping import Bool, Int
from scipy.special import expit

from xattn.datasets import Dataset, HardNegative, Statement
from xattn.evaluation.encoding import EncodedPictures
from xattn.evaluation.measures import Measured, Settings
from xattn.evaluation.scoring import encode_texts, own_scores
from xattn.model import XAttnModel

GROUP = "hard negatives"
ALL_KINDS = "all kinds"


def measure_hard_negatives(
    model: XAttnModel, encoded: EncodedPictures, dataset: Dataset, settings: Settings
) -> Iterator[Measured]:
    """Of pairs: how often the true caption scores higher than the wrong one; equal scores are a failure.
    Of single statements: how often the match probability is on the right side of the threshold.
    """
    row = {record.id: i for i, record in enumerate(dataset.records)}
    pairs = sorted(dataset.hard_negatives, key=lambda pair: row[pair.record_id])
    if pairs:
        pictures = np.array([row[pair.record_id] for pair in pairs], np.intp)
        captions = [text for pair in pairs for text in (pair.positive, pair.negative)]
        scores = own_scores(model, encoded, encode_texts(model, captions), pictures.repeat(2)).combined
        yield from _by_kind(pairs, "right of two", scores[0::2] > scores[1::2], pictures)
    statements = sorted(dataset.statements, key=lambda statement: row[statement.record_id])
    if statements:
        pictures = np.array([row[statement.record_id] for statement in statements], np.intp)
        texts = encode_texts(model, [statement.text for statement in statements])
        believed = expit(own_scores(model, encoded, texts, pictures).combined) >= settings.threshold
        true = np.array([statement.is_true for statement in statements])
        yield from _by_kind(statements, "true or false", believed == true, pictures)


def _by_kind(
    entries: Sequence[HardNegative | Statement],
    measure: str,
    right: Bool[np.ndarray, " N"],
    pictures: Int[np.ndarray, " N"],
) -> Iterator[Measured]:
    """Accuracy of each set, and of each kind in it."""
    order = sorted(range(len(entries)), key=lambda i: (entries[i].set, entries[i].kind))
    for name, of_set in groupby(order, key=lambda i: entries[i].set):
        members = list(of_set)
        kinds = [(ALL_KINDS, members)]
        kinds += [(kind, list(cases)) for kind, cases in groupby(members, key=lambda i: entries[i].kind)]
        for kind, cases in kinds:
            yield Measured(GROUP, f"{name}, {measure}", kind, right[cases].astype(float), pictures[cases])
