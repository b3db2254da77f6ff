"""Checkpoints of a run: killed at any moment, it goes on from the last one to the same result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xattn.errors import CheckpointError
from xattn.training import parallel
from xattn.training.objective import Objective

VERSION = 4


@dataclass(slots=True)
class State:
    """Where a run stands after `step` steps.

    best: trained parameters at the best validation so far; average: their moving average, if there is one,
    on the device and sharded as they are;
    stale: validations since; history: a record for each validation; stopped: why training ended before its
    last step; log_bytes: length of the log; first_loss: of the first step, before training changed
    anything; losses: of the steps since the last validation
    """

    step: int
    best: dict[str, Tensor]
    best_value: float
    stale: int
    history: list[dict[str, Any]]
    average: dict[str, Tensor] = field(default_factory=dict)
    stopped: str | None = None
    log_bytes: int = 0
    first_loss: float | None = None
    losses: list[float] = field(default_factory=list)


def trained_state(objective: Objective) -> dict[str, Tensor]:
    """A copy on the CPU. Collective where parameters are sharded."""
    return {name: parallel.whole(p.detach()).cpu().clone() for name, p in objective.trained()}


@torch.no_grad()
def load_trained(objective: Objective, state: Mapping[str, Tensor]) -> None:
    parameters: dict[str, nn.Parameter] = dict(objective.trained())
    for name, value in state.items():
        parameters[name].copy_(parallel.like(value, parameters[name]))


def save(
    path: Path,
    key: str,
    state: State,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Under a temporary name first, then renamed: what stands at `path` is always whole. Random numbers
    are not kept, since every step begins with its own. Collective; the first process writes.

    key: of settings, data and starting model; another run's checkpoint is not taken up.
    """
    content = {
        "version": VERSION,
        "key": key,
        "trained": trained_state(objective),
        "optimizer": _whole(optimizer.state_dict()),
        "scaler": scaler.state_dict(),
        "step": state.step,
        "best": state.best,
        "best_value": state.best_value,
        "average": {name: parallel.whole(value).cpu() for name, value in state.average.items()},
        "stale": state.stale,
        "history": json.dumps(state.history),
        "stopped": state.stopped,
        "log_bytes": state.log_bytes,
        "first_loss": state.first_loss,
        "losses": state.losses,
    }
    if parallel.is_main():
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)


def load(
    path: Path,
    key: str,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> State | None:
    """Puts everything back as `save` found it; None if there is no checkpoint.

    Raises CheckpointError if it is damaged, of another version or another run.
    """
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version, found = content["version"], content["key"]
    except Exception as error:  # a damaged file raises whatever the unpickler meets
        raise CheckpointError(f"{path} cannot be read: {error}; --restart begins anew") from error
    if version != VERSION or found != key:
        raise CheckpointError(
            f"{path} belongs to a run with other settings, data or another starting model: repeat that "
            "command to go on with it, choose another --out, or give --restart to begin anew"
        )
    load_trained(objective, content["trained"])
    optimizer.load_state_dict(_sharded(content["optimizer"], optimizer))
    if content["scaler"]:
        scaler.load_state_dict(content["scaler"])
    return State(
        content["step"],
        content["best"],
        content["best_value"],
        content["stale"],
        json.loads(content["history"]),
        _average(content["average"], objective),
        content["stopped"],
        content["log_bytes"],
        content["first_loss"],
        content["losses"],
    )


def _average(kept: Mapping[str, Tensor], objective: Objective) -> dict[str, Tensor]:
    parameters = dict(objective.trained())
    return {k: parallel.like(v.to(parameters[k].device), parameters[k]) for k, v in kept.items()}


def _whole(optimizer_state: dict[str, Any]) -> dict[str, Any]:
    """The state of all processes' shards."""
    kept = {
        index: {name: parallel.whole(v) if isinstance(v, Tensor) else v for name, v in entries.items()}
        for index, entries in optimizer_state["state"].items()
    }
    return {**optimizer_state, "state": kept}


def _sharded(optimizer_state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`_whole` undone, for this process."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = {
        index: {
            # Adam counts steps in a tensor without axes.
            name: parallel.like(v, parameters[index]) if v.shape == parameters[index].shape else v
            for name, v in entries.items()
        }
        for index, entries in optimizer_state["state"].items()
    }
    return {**optimizer_state, "state": kept}


def _sync_directory(directory: Path) -> None:
    """A rename is on the disk once its directory is, where directories can be opened."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
