"""Retrieval both ways, calibration, and "nothing matched", from one pass over all pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from xattn import metrics
from xattn.datasets import Dataset
from xattn.evaluation.encoding import EncodedPictures
from xattn.evaluation.measures import Measured, OnProgress, Settings
from xattn.evaluation.scoring import ROUNDING, Scores, encode_texts, own_scores, score_blocks
from xattn.metrics.intervals import Counts
from xattn.model import XAttnModel

POOLED, ATTENTION, TWO_STAGE = "pooled alone", "attention alone", "two-stage"


def measure_search(
    model: XAttnModel, encoded: EncodedPictures, dataset: Dataset, settings: Settings, progress: OnProgress
) -> Iterator[Measured]:
    """Every caption against every picture. record i of the dataset is picture i.

    Text to image, two-stage is what `Engine.search` does: stage 1 proposes candidates. No index proposes
    captions, so image to text it is the combined score of all of them.
    """
    owners = np.array([i for i, record in enumerate(dataset.records) for _ in record.captions], np.intp)
    if not len(owners):
        return
    texts = encode_texts(model, [caption for record in dataset.records for caption in record.captions])
    own = own_scores(model, encoded, texts, owners)
    tolerances = (ROUNDING, ROUNDING, ROUNDING * max(1.0, model.calibration.logit_scale))
    counters = [
        metrics.RankCounter(owners, scores, len(encoded), tolerance)
        for scores, tolerance in zip(own, tolerances, strict=True)
    ]
    two_stage = np.empty(len(owners), np.int64)
    matches = _Matches(owners, len(encoded), settings, model.calibration.nothing_below)
    for block, scores in score_blocks(model, encoded, texts):
        for counter, matrix in zip(counters, scores, strict=True):
            counter.add(block, matrix)
        two_stage[block] = metrics.two_stage_ranks(
            scores.pooled, scores.combined, owners[block], settings.candidates
        )
        matches.add(block, scores)
        progress("scoring captions", block.stop, len(owners))
    pooled, attention, combined = (counter.ranks() for counter in counters)
    yield from _ranks("text → image", POOLED, pooled.text_to_image, owners)
    yield from _ranks("text → image", ATTENTION, attention.text_to_image, owners)
    yield from _ranks("text → image", TWO_STAGE, two_stage, owners)
    for subject, ranks in ((POOLED, pooled), (ATTENTION, attention), (TWO_STAGE, combined)):
        yield from _ranks("image → text", subject, ranks.image_to_text, ranks.captioned)
    if len(encoded) > 1:
        yield from matches.measured()


def _ranks(
    group: str, subject: str, ranks: Int[np.ndarray, " N"], pictures: Int[np.ndarray, " N"]
) -> Iterator[Measured]:
    reference = None if subject == POOLED else POOLED
    for k in (1, 5, 10):
        found = (ranks <= k).astype(float)
        yield Measured(group, f"recall@{k}", subject, found, pictures, reference=reference)
    yield Measured(
        group,
        "median rank",
        subject,
        ranks,
        pictures,
        metrics.median_rank,
        is_share=False,
        reference=reference,
    )


class _Matches:
    """The best match of every caption with its picture among the others, and with its picture taken out.

    A picture taken out leaves others that the caption may describe as well, and every such match counts
    as wrong: the figures are a lower bound.
    """

    def __init__(
        self, owners: Int[np.ndarray, " N"], num_images: int, settings: Settings, nothing_below: float
    ) -> None:
        self._owners = owners
        self._candidates = settings.candidates
        self._threshold = nothing_below
        step = np.random.default_rng(settings.seed).integers(1, max(num_images, 2), len(owners))
        self._strangers = (owners + step) % num_images
        self._right = np.zeros(len(owners), bool)
        # Probabilities with the own picture, with a random other one, and of the best match.
        self._own, self._strange, self._present, self._absent = np.zeros((4, len(owners)))

    def add(self, block: slice, scores: Scores) -> None:
        owners, columns = self._owners[block], np.arange(block.stop - block.start)
        combined = scores.combined
        self._own[block] = expit(combined[owners, columns])
        self._strange[block] = expit(combined[self._strangers[block], columns])
        proposed = np.where(metrics.proposed(scores.pooled, self._candidates), combined, -np.inf)
        self._right[block] = proposed.argmax(0) == owners
        self._present[block] = expit(proposed.max(0))
        others = scores.pooled.copy()
        others[owners, columns] = -np.inf
        proposed = np.where(metrics.proposed(others, self._candidates), combined, -np.inf)
        proposed[owners, columns] = -np.inf
        self._absent[block] = expit(proposed.max(0))

    def measured(self) -> Iterator[Measured]:
        twice = np.concatenate([self._owners, self._owners])
        yes, no = np.ones(len(self._owners)), np.zeros(len(self._owners))
        pairs = np.stack([np.concatenate([self._own, self._strange]), np.concatenate([yes, no])], -1)
        best = np.concatenate([self._present, self._absent])
        searches = np.stack([best, np.concatenate([self._right, no])], -1)
        for subject, cases in (("own and random pictures", pairs), ("best match of a search", searches)):
            yield Measured(
                "match probability",
                "calibration error",
                subject,
                cases,
                twice,
                _calibration,
                is_share=False,
            )
        nothing = np.stack([best < self._threshold, np.concatenate([no, yes]) > 0], -1)
        group, subject = "nothing matched", "best match below the model's threshold"
        yield Measured(group, "precision", subject, nothing, twice, _precision)
        yield Measured(group, "recall", subject, nothing, twice, _recall)


def _calibration(cases: Float[np.ndarray, "N 2"], weights: Counts) -> float:
    return metrics.expected_calibration_error(cases[:, 0], cases[:, 1], weights)


def _precision(cases: Bool[np.ndarray, "N 2"], weights: Counts) -> float:
    return metrics.precision(cases[:, 0], cases[:, 1], weights)


def _recall(cases: Bool[np.ndarray, "N 2"], weights: Counts) -> float:
    return metrics.recall(cases[:, 0], cases[:, 1], weights)
