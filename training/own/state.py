"""Checkpoints of a run: killed at any moment, it goes on from the last one to the same result."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.own.head import HeadObjective
from xattn.errors import CheckpointError

VERSION = 1


@dataclass(slots=True)
class State:
    """Where a run stands after `step` steps.

    best: trained parameters at the best validation so far; stale: validations since; history: a record
    for each validation; stopped: why training ended before its last step; log_bytes: length of the log
    """

    step: int
    best: dict[str, Tensor]
    best_value: float
    stale: int
    history: list[dict[str, Any]]
    stopped: str | None = None
    log_bytes: int = 0


def trained_state(objective: HeadObjective) -> dict[str, Tensor]:
    """A copy."""
    return {name: p.detach().cpu().clone() for name, p in objective.trained()}


@torch.no_grad()
def load_trained(objective: HeadObjective, state: dict[str, Tensor]) -> None:
    parameters: dict[str, nn.Parameter] = dict(objective.trained())
    for name, value in state.items():
        parameters[name].copy_(value)


def save(
    path: Path, key: str, state: State, objective: HeadObjective, optimizer: torch.optim.Optimizer
) -> None:
    """Under a temporary name first, then renamed: what stands at `path` is always whole.

    key: of settings, data and starting model; another run's checkpoint is not taken up.
    """
    content = {
        "version": VERSION,
        "key": key,
        "trained": trained_state(objective),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "step": state.step,
        "best": state.best,
        "best_value": state.best_value,
        "stale": state.stale,
        "history": json.dumps(state.history),
        "stopped": state.stopped,
        "log_bytes": state.log_bytes,
    }
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(path: Path, key: str, objective: HeadObjective, optimizer: torch.optim.Optimizer) -> State | None:
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
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["random"])
    if content["cuda_random"]:
        torch.cuda.set_rng_state_all(content["cuda_random"])
    return State(
        content["step"],
        content["best"],
        content["best_value"],
        content["stale"],
        json.loads(content["history"]),
        content["stopped"],
        content["log_bytes"],
    )
