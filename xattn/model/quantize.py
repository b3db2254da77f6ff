"""Weights as small integers: symmetric, rounded to nearest, one scale per group of a row.

    w ≈ scale · q,   q in [-(2^(bits-1) - 1), 2^(bits-1) - 1],   scale = max|w| / (2^(bits-1) - 1)

per group of GROUP consecutive entries of a row. Six bits are packed four to three bytes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

GROUP = 64
BITS = 6
MIN_SIZE = 131_072
"""Tensors with fewer entries stay in half precision: the attention, many maps to it; 2 MB more."""


def pack_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with its large matrices packed, the rest in half precision (integers as they are).

    A packed tensor `name` becomes `name:q6` (bytes), `name:scale` and `name:shape`.
    """
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.is_floating_point() and value.ndim > 1 and value.numel() >= MIN_SIZE:
            packed[f"{name}:q{BITS}"], packed[f"{name}:scale"] = quantize(value)
            packed[f"{name}:shape"] = torch.tensor(value.shape)
        else:
            packed[name] = value.half().contiguous() if value.is_floating_point() else value
    return packed


def unpack_state(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `pack_state`, in float32; also takes states that were never packed."""
    state: dict[str, Tensor] = {}
    for name, value in packed.items():
        base, _, part = name.partition(":")
        if part == f"q{BITS}":
            shape = tuple(packed[f"{base}:shape"].tolist())
            state[base] = dequantize(value, packed[f"{base}:scale"], shape)
        elif not part:
            state[name] = value.float() if value.is_floating_point() else value
    return state


def quantize(weights: Tensor) -> tuple[UInt8[Tensor, " bytes"], Float[Tensor, " groups"]]:
    """Packed six-bit integers and half-precision scales; rows are padded with zeros to whole groups."""
    limit = 2 ** (BITS - 1) - 1
    rows = weights.detach().float().flatten(1)
    groups = F.pad(rows, (0, -rows.shape[1] % GROUP)).view(-1, GROUP)
    scales = (groups.abs().amax(1) / limit).clamp(min=torch.finfo(torch.float16).tiny).half()
    integers = (groups / scales.float()[:, None]).round().clamp(-limit, limit).to(torch.int32) + limit
    a, b, c, d = integers.view(-1, 4).unbind(1)
    word = a | b << 6 | c << 12 | d << 18
    return torch.stack([word & 255, word >> 8 & 255, word >> 16], 1).to(torch.uint8).flatten(), scales


def dequantize(packed: Tensor, scales: Tensor, shape: tuple[int, ...]) -> Tensor:
    """float32 weights of the given shape."""
    limit = 2 ** (BITS - 1) - 1
    low, middle, high = packed.view(-1, 3).unbind(1)
    first = low & 63
    second = low >> 6 | (middle & 15) << 2
    third = middle >> 4 | (high & 3) << 4
    integers = torch.stack([first, second, third, high >> 2], 1).float() - limit
    groups = integers.view(-1, GROUP) * scales.float()[:, None]
    width = torch.Size(shape[1:]).numel()
    return groups.view(shape[0], -1)[:, :width].reshape(shape).contiguous()
