"""Low-rank adapters (LoRA, Hu et al. 2022): weight + (alpha / rank) · up · down, of which only up and down
are trained. They are parametrisations of the weights themselves, so that the towers' code does not know
of them, also where it reads a weight without calling the layer; merged, nothing of them is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """What is added to one weight [out, in, …]; nothing, before it is trained."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        outputs, inputs = weight.flatten(1).shape
        rank = min(rank, outputs, inputs)
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, inputs, device=weight.device) * inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down).view_as(weight)


def add_adapters(modules: Iterable[nn.Module], rank: int, alpha: float) -> int:
    """Gives every matrix in the modules an adapter, drawn from torch's generator; returns how many."""
    places = list(dict.fromkeys(place for module in modules for place in _matrices(module)))
    for module, name in places:
        weight = getattr(module, name)
        parametrize.register_parametrization(module, name, LowRank(weight, rank, alpha))
    return len(places)


def merge_adapters(module: nn.Module) -> None:
    """Adds up weights and adapters; parameters have their old names again."""
    for part in module.modules():
        for name in list(getattr(part, "parametrizations", ())):
            parametrize.remove_parametrizations(part, name, leave_parametrized=True)


def _matrices(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for part in module.modules():
        if isinstance(part, nn.Linear) or (
            isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.groups == 1
        ):
            yield part, "weight"
        elif getattr(part, "in_proj_weight", None) is not None:  # q, k and v of an attention, stacked
            yield part, "in_proj_weight"
