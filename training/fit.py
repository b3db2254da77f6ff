"""Gradient steps on batches: what every part of a run shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.recipes import Recipe
from xattn.errors import DataError

FINAL_RATE = 1e-3
"""What is left of the learning rate at the end."""
MAX_GRADIENT_NORM = 1.0

OnStep = Callable[[dict[str, float]], None]
B = TypeVar("B")


def fit(
    trained: nn.Module,
    batches: Iterable[tuple[int, B]],
    steps: int,
    measure: Callable[[B], tuple[Tensor, dict[str, float]]],
    recipe: Recipe,
    log: OnStep,
) -> None:
    """Trains a module in place with AdamW; at the end it holds the running mean of its weights.

    batches: (epoch, batch), `steps` of them; measure: a batch's loss and what else to log; log: called
    after every step with `step`, `epoch`, `steps`, `rate`, `loss` and what `measure` gave.
    Raises DataError if the loss is no longer a number.
    """
    optimizer = _optimizer(trained, recipe)
    schedule = LambdaLR(optimizer, lambda step: _rate(step, steps, recipe.warmup_steps))
    mean = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging))
    for step, (epoch, batch) in enumerate(batches, 1):
        loss, figures = measure(batch)
        if not loss.isfinite():
            raise DataError(f"the loss is {loss.item()} at step {step}; lower the learning rate")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), MAX_GRADIENT_NORM)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        mean.update_parameters(trained)
        entry = {"step": step, "steps": steps, "epoch": epoch, "rate": float(rate)}
        log(entry | {"loss": loss.item()} | figures)
    trained.load_state_dict(mean.module.state_dict())


def _optimizer(trained: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Weights decay; norms, biases and temperatures do not."""
    parameters = list(trained.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def _rate(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the learning rate: a linear rise times half a cosine."""
    rise = min(1.0, (step + 1) / max(1, warmup_steps))
    return rise * (0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))) + FINAL_RATE)
