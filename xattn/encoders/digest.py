"""What is digested of a module's weights, to tell one set of weights from another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def weight_parts(state: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Name, shape, dtype and bytes of each tensor of a state dict, in the order of the names."""
    for key, value in sorted(state.items()):
        yield f"{key}{tuple(value.shape)}{value.dtype}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
