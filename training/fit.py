"""The loop: batches, losses, one optimiser, a running mean of the weights, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from training.batches import Batch, Sampler
from training.frozen import FeatureStore, widths_of
from training.objective import Objective, learning_rate_share, total
from training.recipe import Recipe
from training.student import Student
from xattn.errors import CheckpointError, TrainingStopped
from xattn.files import replacing

OnStep = Callable[[dict[str, float]], None]


def fit(
    student: Student,
    store: FeatureStore,
    sampler: Sampler,
    recipe: Recipe,
    checkpoint: Path,
    on_step: OnStep,
    *,
    minutes: float | None = None,
) -> None:
    """Trains to the end of the recipe and leaves the running mean of the weights in the student's model.

    A run that was killed goes on from its checkpoint to the same weights. minutes: stops after that.

    Raises:
        TrainingStopped: `minutes` have passed, or the loss is not finite.
        CheckpointError: the checkpoint belongs to another recipe.
    """
    run = _Run(student, store, recipe, checkpoint)
    num_steps = recipe.epochs * sampler.steps_per_epoch
    done = run.resume()
    started = saved = time.monotonic()
    step = 0
    for epoch in range(recipe.epochs):
        if step + sampler.steps_per_epoch <= done:
            step += sampler.steps_per_epoch
            continue
        for batch in sampler.epoch(epoch):
            step += 1
            if step <= done:
                continue
            losses = run.step(batch, step - 1, num_steps)
            on_step({"step": step, "steps": num_steps, "epoch": epoch} | losses)
            now = time.monotonic()
            is_over = minutes is not None and now - started > 60 * minutes
            if is_over or now - saved > 60 * recipe.checkpoint_minutes or step == num_steps:
                run.save(step)
                saved = now
            if is_over and step < num_steps:
                raise TrainingStopped(f"stopped after {minutes} minutes at step {step} of {num_steps}")
    run.use_mean()


class _Run:
    """What a training holds: the parameters, their running mean, the optimiser."""

    def __init__(self, student: Student, store: FeatureStore, recipe: Recipe, checkpoint: Path) -> None:
        self._student, self._store, self._recipe, self._checkpoint = student, store, recipe, checkpoint
        self._objective = Objective(student.attention, recipe)
        self._parameters = dict(student.named_trained())
        self._optimizer = _optimizer(student, self._objective, recipe)
        self._mean = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._widths = widths_of(student.vision)

    def step(self, batch: Batch, step: int, num_steps: int) -> dict[str, float]:
        """One update; returns the losses. step: from 0."""
        recipe = self._recipe
        torch.manual_seed(recipe.seed * 1_000_003 + step)  # the same dropout wherever the run began
        self._student.train()
        share = learning_rate_share(step, num_steps, recipe.warmup_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * share
        shape = self._store.shape_of(batch.photos[0])
        regions, pooled = self._student.images(self._store.read(batch.photos, self._widths), shape)
        losses = self._objective(batch, regions, pooled, self._student.texts(batch.texts))
        loss = total(losses)
        if not torch.isfinite(loss):
            raise TrainingStopped(f"the loss at step {step} is {loss.item()}: lower learning_rate")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(list(self._parameters.values()), recipe.max_gradient)
        self._optimizer.step()
        self._average(min(recipe.averaging, (step + 1) / (step + 11)))
        return {"loss": loss.item()} | {name: value.item() for name, value in losses.items()}

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        values = [parameter.detach() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self._mean.values()), values, 1 - decay)

    @torch.no_grad()
    def use_mean(self) -> None:
        """Leaves the running mean in the parameters."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._mean[name])

    def save(self, step: int) -> None:
        """Writes the checkpoint whole or not at all."""
        state = {
            "recipe": repr(self._recipe),
            "step": step,
            "parameters": {name: p.detach() for name, p in self._parameters.items()},
            "log_scales": self._objective.log_scales.detach(),
            "optimizer": self._optimizer.state_dict(),
            "mean": self._mean,
        }
        with replacing(self._checkpoint) as temporary:
            torch.save(state, temporary)

    @torch.no_grad()
    def resume(self) -> int:
        """Steps that the checkpoint has done; 0 without one."""
        if not self._checkpoint.exists():
            return 0
        state = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        if state["recipe"] != repr(self._recipe):
            raise CheckpointError(
                f"{self._checkpoint} is of a run with other numbers; delete it to begin anew"
            )
        for name, parameter in self._parameters.items():
            parameter.copy_(state["parameters"][name])
            self._mean[name].copy_(state["mean"][name])
        self._objective.log_scales.copy_(state["log_scales"])
        self._optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])


def _optimizer(student: Student, objective: Objective, recipe: Recipe) -> torch.optim.AdamW:
    towers = {id(p) for p in student.towers.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for _, parameter in student.named_trained():
        groups.setdefault((id(parameter) in towers, parameter.ndim > 1), []).append(parameter)
    described = [
        {
            "params": parameters,
            "rate": recipe.tower_rate if is_tower else recipe.learning_rate,
            "weight_decay": recipe.weight_decay if is_matrix else 0.0,
        }
        for (is_tower, is_matrix), parameters in groups.items()
    ]
    described.append({"params": [objective.log_scales], "rate": 1e-3, "weight_decay": 0.0})
    return torch.optim.AdamW(described, lr=recipe.learning_rate)
