"""Cosines → probabilities, on pictures kept from training (Platt 1999)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit

from xattn.model import Calibration, XAttnModel
from xattn.types import RegionGrid

NOTHING_PRECISION = 0.8
"""How often a search that says it probably found nothing shall be right, at the least."""
MIN_SCALE = 0.01
"""A score must rise with the cosine, however little the model has learned."""


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


@torch.inference_mode()
def calibrate(
    model: XAttnModel,
    pictures: RegionGrid,
    texts: Float[torch.Tensor, "N D"],
    matched: Bool[np.ndarray, "B N"],
    *,
    pooled_weight: float,
    matched_share: float,
) -> Calibration:
    """The calibration of a trained model, which it is also given.

    pictures, texts: kept from training; matched: which text belongs to which picture, all other pairs
    count as random; pooled_weight: β, as it is.
    """
    model.calibration = Calibration(logit_scale=1.0, logit_bias=0.0, pooled_weight=pooled_weight)
    cosines = model.score(pictures, texts).cpu().double().numpy()
    scale, bias = fit_platt(cosines.ravel(), matched.ravel(), matched_share)
    found = replace(model.calibration, logit_scale=scale, logit_bias=bias)
    threshold = nothing_below(expit(scale * cosines + bias), matched, NOTHING_PRECISION)
    model.calibration = replace(found, nothing_below=threshold)
    return model.calibration
