"""What the processes of a group hold, joined, with exact gradients.

Only captions are exchanged, [N, D] a process: each process scores its own pictures with every caption.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

Group = Any
"""torch.distributed.ProcessGroup, which torch does not have where it was built without distribution."""


def world_size(group: Group | None) -> int:
    """Processes of the group (None: of the default one); 1 where no group was ever made."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def exchange(own: Shaped[Tensor, "own ..."], group: Group | None = None) -> Shaped[Tensor, "joined ..."]:
    """The rows of all processes, in the order of their ranks; numbers of rows may differ.

    The gradient is the sum of the gradients that all processes have for the own rows. So where each
    process takes a part of the loss, adding up the parameters' gradients gives those of the whole loss.
    DistributedDataParallel averages them instead: multiply the loss by the number of processes.
    Collective: every process of the group must call it, and its backward.
    """
    if world_size(group) == 1:
        return own
    if not own.is_floating_point():
        return _gather(own, _counts(own, group), group)
    return _Exchange.apply(own, group)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Group | None) -> Tensor:
        ctx.counts = _counts(own, group)
        ctx.group = group
        return _gather(own, ctx.counts, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        start = sum(ctx.counts[: dist.get_rank(ctx.group)])
        return total[start : start + ctx.counts[dist.get_rank(ctx.group)]], None


def _counts(own: Tensor, group: Group | None) -> list[int]:
    counts = [torch.zeros(1, dtype=torch.long, device=own.device) for _ in range(world_size(group))]
    dist.all_gather(counts, torch.tensor([len(own)], device=own.device), group=group)
    return [int(count) for count in counts]


def _gather(own: Tensor, counts: list[int], group: Group | None) -> Tensor:
    """all_gather wants one shape, so that shorter parts are padded, and cut again."""
    padded = own.detach().new_zeros(max(counts), *own.shape[1:])
    padded[: len(own)] = own.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
