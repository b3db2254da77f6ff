"""Cosines → probabilities, on pictures kept from training (Platt 1999).

Two questions have a probability: whether a text describes a picture, fitted on whole captions, and whether
what a part of a text names is in the picture, fitted on the noun phrases of the same captions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit

from xattn.model import Calibration, XAttnModel
from xattn.query import parse
from xattn.types import RegionGrid

NOTHING_PRECISION = 0.8
"""How often a search that says it probably found nothing shall be right, at the least."""
PHRASE_SHARE = 0.5
"""Of the phrases that are asked about, so many are in the picture: a person types what shall be there."""
PHRASE_BELOW = 0.2
"""Below it a phrase counts as not found."""
AT_ONCE = 128
"""Texts scored together."""
MIN_SCALE = 0.01
"""A score must rise with the cosine, however little the model has learned."""

_WORD = re.compile(r"[\w'-]+")


def fit_platt(
    cosines: Float[np.ndarray, " n"], matched: Bool[np.ndarray, " n"], matched_share: float
) -> tuple[float, float]:
    """(scale, bias) such that sigmoid(scale · cosine + bias) is the probability of a match.

    Least weighted cross-entropy, the matched pairs together weighing `matched_share` and the others the
    rest. Targets are Platt's, (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2), so that pairs which a threshold
    separates do not drive the scale to infinity. Both kinds of pair must occur.
    """
    num_matched, num_others = int(matched.sum()), int((~matched).sum())
    if not num_matched or not num_others:
        raise ValueError(f"expected matched and other pairs, got {num_matched} and {num_others}")
    targets = np.where(matched, (num_matched + 1) / (num_matched + 2), 1 / (num_others + 2))
    weights = np.where(matched, matched_share / num_matched, (1 - matched_share) / num_others)

    def loss(parameters: Float[np.ndarray, " 2"]) -> tuple[float, Float[np.ndarray, " 2"]]:
        logits = parameters[0] * cosines + parameters[1]
        # log(1 + e^x) - t·x is the cross-entropy of sigmoid(x) and target t.
        value = weights @ (np.logaddexp(0, logits) - targets * logits)
        slope = weights * (expit(logits) - targets)
        return float(value), np.array([slope @ cosines, slope.sum()])

    start = np.array([10.0, float(np.log(matched_share / (1 - matched_share)) - 10.0 * cosines.mean())])
    bounds = [(MIN_SCALE, None), (None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12})
    return float(found.x[0]), float(found.x[1])


def nothing_below(
    probabilities: Float[np.ndarray, "B N"], matched: Bool[np.ndarray, "B N"], precision: float
) -> float:
    """The highest threshold on a search's best match below which, in at least `precision` of the cases,
    the searched picture is not there; 0 if there is none.

    Each text is searched twice, among all pictures and with its own taken out. The others may well show
    what it says: the precision is a lower bound.
    """
    present = probabilities.max(0)
    absent = np.where(matched, 0.0, probabilities).max(0)
    best = 0.0
    for threshold in np.unique(np.concatenate([present, absent])):
        right, wrong = (absent < threshold).sum(), (present < threshold).sum()
        if right and right / (right + wrong) >= precision:
            best = float(threshold)
    return best


def phrase_pairs(
    captions: Sequence[Sequence[str]],
) -> tuple[list[str], Bool[np.ndarray, "B N"], Bool[np.ndarray, "B N"]]:
    """(the noun phrases of all captions, which picture's captions have which, whose do not name it at all).

    captions: of each picture. "A dog" is not known to be missing where another caption says "brown dog": a
    pair whose phrase ends in a word that the picture's captions use is neither.
    """
    own = [
        {p.text.lower() for caption in some for p in parse(caption).phrases if p.source == "noun"}
        for some in captions
    ]
    used = [set(_WORD.findall(" ".join(some).lower())) for some in captions]
    phrases = sorted(set().union(*own))
    heads = [(_WORD.findall(phrase) or [phrase])[-1] for phrase in phrases]
    shape = (len(captions), len(phrases))
    held = np.array([[phrase in some for phrase in phrases] for some in own], bool).reshape(shape)
    named = np.array([[head in some for head in heads] for some in used], bool).reshape(shape)
    return phrases, held, ~named & ~held


@torch.inference_mode()
def calibrate(
    model: XAttnModel,
    pictures: RegionGrid,
    captions: Sequence[Sequence[str]],
    *,
    pooled_weight: float,
    matched_share: float,
) -> Calibration:
    """The calibration of a trained model, which it is also given.

    pictures: kept from training; captions: of each of them, all others count as wrong; pooled_weight: β, as
    it is. Where nothing is wrong or nothing right the model keeps what it had.
    """
    texts = [caption for some in captions for caption in some]
    matched = np.array([[text in some for text in texts] for some in map(set, captions)])
    if matched.all() or not matched.any():
        return model.calibration
    model.calibration = Calibration(logit_scale=1.0, logit_bias=0.0, pooled_weight=pooled_weight)
    cosines = _scores(model, pictures, texts)
    scale, bias = fit_platt(cosines.ravel(), matched.ravel(), matched_share)
    found = replace(model.calibration, logit_scale=scale, logit_bias=bias)
    threshold = nothing_below(expit(scale * cosines + bias), matched, NOTHING_PRECISION)
    model.calibration = replace(found, nothing_below=threshold)

    phrases, held, missing = phrase_pairs(captions)
    if held.any() and missing.any():
        scores, known = _scores(model, pictures, phrases), held | missing
        scale, bias = fit_platt(scores[known], held[known], PHRASE_SHARE)
        model.calibration = replace(
            model.calibration, phrase_scale=scale, phrase_bias=bias, phrase_below=PHRASE_BELOW
        )
    return model.calibration


def _scores(model: XAttnModel, pictures: RegionGrid, texts: Sequence[str]) -> Float[np.ndarray, "B N"]:
    chunks = (texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE))
    return np.concatenate([model.score(pictures, chunk).cpu().double().numpy() for chunk in chunks], 1)
