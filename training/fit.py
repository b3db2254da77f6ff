"""The loop: batches, losses, one optimiser, a running mean of the weights, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from training.batches import Sampler
from training.frozen import FeatureStore, widths_of
from training.objective import Objective, learning_rate_share, total
from training.recipe import Recipe
from training.student import Student
from xattn.errors import CheckpointError, TrainingStopped

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
    objective = Objective(student.attention, recipe)
    parameters = dict(student.named_trained())
    optimizer = _optimizer(student, objective, recipe)
    mean = {name: value.detach().clone() for name, value in parameters.items()}
    num_steps = recipe.epochs * sampler.steps_per_epoch
    done = _resume(checkpoint, recipe, parameters, objective, optimizer, mean)
    started = saved = time.monotonic()
    widths = widths_of(student.vision)
    step = 0
    for epoch in range(recipe.epochs):
        if step + sampler.steps_per_epoch <= done:
            step += sampler.steps_per_epoch
            continue
        for batch in sampler.epoch(epoch):
            if step < done:
                step += 1
                continue
            torch.manual_seed(recipe.seed * 1_000_003 + step)  # the same dropout wherever the run began
            student.train()
            share = learning_rate_share(step, num_steps, recipe.warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * share
            shape = store.shape_of(batch.photos[0])
            regions, pooled = student.images(store.read(batch.photos, widths), shape)
            losses = objective(batch, regions, pooled, student.texts(batch.texts))
            loss = total(losses)
            if not torch.isfinite(loss):
                raise TrainingStopped(f"the loss at step {step} is {loss.item()}: lower learning_rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(list(parameters.values()), recipe.max_gradient)
            optimizer.step()
            step += 1
            _average(mean, parameters, min(recipe.averaging, step / (step + 10)))
            on_step(
                {"step": step, "steps": num_steps, "epoch": epoch, "loss": loss.item()}
                | {name: value.item() for name, value in losses.items()}
            )
            now = time.monotonic()
            is_over = minutes is not None and now - started > 60 * minutes
            if is_over or now - saved > 60 * recipe.checkpoint_minutes or step == num_steps:
                _save(checkpoint, recipe, parameters, objective, optimizer, mean, step)
                saved = now
            if is_over and step < num_steps:
                raise TrainingStopped(f"stopped after {minutes} minutes at step {step} of {num_steps}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(mean[name])


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


@torch.no_grad()
def _average(mean: dict[str, Tensor], parameters: dict[str, nn.Parameter], decay: float) -> None:
    torch._foreach_lerp_(list(mean.values()), [p.detach() for p in parameters.values()], 1 - decay)


def _save(
    path: Path,
    recipe: Recipe,
    parameters: dict[str, nn.Parameter],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    mean: dict[str, Tensor],
    step: int,
) -> None:
    state = {
        "recipe": repr(recipe),
        "step": step,
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "log_scales": objective.log_scales.detach(),
        "optimizer": optimizer.state_dict(),
        "mean": mean,
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


@torch.no_grad()
def _resume(
    path: Path,
    recipe: Recipe,
    parameters: dict[str, nn.Parameter],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    mean: dict[str, Tensor],
) -> int:
    """Steps done so far."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["recipe"] != repr(recipe):
        raise CheckpointError(f"{path} is of a run with other numbers; delete it to begin anew")
    for name, parameter in parameters.items():
        parameter.copy_(state["parameters"][name])
        mean[name].copy_(state["mean"][name])
    objective.log_scales.copy_(state["log_scales"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
