"""Several processes, as torchrun starts them: who does what, and what they add up.

Every process draws the same batches and takes its part of each: some pictures, and some captions, whose
embeddings all processes exchange (`xattn.losses.gather`). Gradients are added up once a step, after
all chunks, so the run is that of one process with the same batches, to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from math import ceil
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

Value = TypeVar("Value")
PATIENCE = timedelta(days=1)
"""Features of a large collection may take one process long, while the others wait."""


@contextmanager
def processes(device: str) -> Iterator[str]:
    """Joins the processes that torchrun started, if it did; gives this one's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if device == "cpu" else "nccl", timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world() > 1 else 0


def is_main() -> bool:
    """Whether this process writes files and talks to the person."""
    return rank() == 0


def speaks() -> bool:
    """The same before processes have joined and after they parted, by what torchrun told each."""
    return os.environ.get("RANK", "0") == "0"


def part(count: int) -> slice:
    """Which of `count` things are this process's."""
    return slice(count * rank() // world(), count * (rank() + 1) // world())


def pieces(mine: Sequence[Value], total: int, size: int) -> list[Sequence[Value]]:
    """This process's part of `total` things in pieces of about `size` at most, as many in every process:
    sharded towers must run equally often in all of them. At least one piece, which may be empty."""
    count = max(1, ceil(ceil(total / world()) / max(1, size)))
    return [mine[len(mine) * i // count : len(mine) * (i + 1) // count] for i in range(count)]


@contextmanager
def main_first() -> Iterator[None]:
    """What the first process leaves on disk in here, the others find."""
    if not is_main():
        dist.barrier()
    yield
    if world() > 1 and is_main():
        dist.barrier()


def from_main(value: Value) -> Value:
    """The first process's value, in all of them."""
    if world() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box)
    return box[0]


def added(value: Tensor) -> Tensor:
    """The sum over processes; the value itself may be overwritten."""
    if world() > 1:
        dist.all_reduce(value)
    return value


@torch.no_grad()
def same(tensors: Sequence[Tensor]) -> None:
    """Gives every process the first one's tensors."""
    for tensor in tensors:
        if world() > 1 and not isinstance(tensor, DTensor):
            dist.broadcast(tensor.detach(), 0)


@torch.no_grad()
def add_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Gradients become the sums over processes: the loss of each is its part of the batch's."""
    for p in parameters:
        if isinstance(p, DTensor) and p.grad is not None:
            p.grad.mul_(world())  # of sharded parameters they are means already
    held = [p for p in parameters if not isinstance(p, DTensor)]
    if world() == 1 or not held:
        return
    # A part that no process used stays without a gradient, as in one process: nothing decays it.
    used = added(torch.tensor([p.grad is not None for p in held], device=held[0].device).float())
    held = [p for p, times in zip(held, used.tolist(), strict=True) if times]
    for p in held:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    flat = added(torch.cat([p.grad.flatten() for p in held if p.grad is not None]))
    for p, total in zip(held, flat.split([p.numel() for p in held]), strict=True):
        assert p.grad is not None
        p.grad.copy_(total.view_as(p))


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], largest: float) -> Tensor:
    """Scales all gradients down to a common norm of at most `largest`; returns the norm they had."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    shards = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    whole = [g for g in gradients if not isinstance(g, DTensor)]
    squared = torch.stack([g.float().square().sum() for g in whole]).sum()
    if shards:
        squared = squared + added(torch.stack([g.float().square().sum() for g in shards]).sum())
    norm = squared.sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in (*whole, *shards):
        gradient.mul_(factor.to(gradient))
    return norm


# Sharding: each process holds a part of every weight of the towers, and its optimizer state (FSDP).


def shard(towers: Sequence[nn.Module]) -> None:
    """A tower's weights are gathered while it runs, all at once: not block by block, because pictures of
    different shapes pass the blocks one shape after the other, which is not as often in every process."""
    from torch.distributed.fsdp import fully_shard

    for module in towers:
        single = {p for p in module.parameters() if p.ndim == 0}  # such as open_clip's own scale, unused
        fully_shard(module, ignored_params=single)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its shards. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, sharded as the parameter is, if it is not already. Collective."""
    if isinstance(value, DTensor) or not isinstance(parameter, DTensor):
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)
