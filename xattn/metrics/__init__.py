"""Figures as pure functions, with intervals.

retrieval     ranks and recall
grounding     maps and boxes against annotated boxes; xattn.geometry has the overlaps themselves
calibration   probabilities against what is true
intervals     bootstrap intervals and paired differences
"""

from xattn.metrics.calibration import expected_calibration_error, precision, recall
from xattn.metrics.grounding import (
    box_accuracy,
    pointing_game,
)
from xattn.metrics.intervals import Difference, Interval, bootstrap_interval, paired_difference
from xattn.metrics.retrieval import (
    RankCounter,
    Ranks,
    median_rank,
    proposed,
    recall_at_k,
    retrieval_ranks,
    text_ranks,
    two_stage_ranks,
)

__all__ = [
    "Difference",
    "Interval",
    "RankCounter",
    "Ranks",
    "bootstrap_interval",
    "box_accuracy",
    "expected_calibration_error",
    "median_rank",
    "paired_difference",
    "pointing_game",
    "precision",
    "proposed",
    "recall",
    "recall_at_k",
    "retrieval_ranks",
    "text_ranks",
    "two_stage_ranks",
]
