"""Linear layers that multiply from weights in oneDNN's own order: the same product of a frozen net, in
about four fifths of the time of torch's default on an AMD processor (`python -m benchmarks.encoder`).

torch's compiler uses the same operators (weight prepacking in `torch._inductor`). Compiling costs a minute
at every start; calling them costs nothing.
"""

from __future__ import annotations

import platform
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)

OPERATORS = ("_reorder_linear_weight", "_linear_pointwise")
USABLE = (
    platform.machine() in ("x86_64", "AMD64")  # measured nowhere else
    and torch.backends.mkldnn.is_available()
    and all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)
)


class Reordered(NamedTuple):
    """Weights in oneDNN's order, and of which they were made: parameter, memory, changes so far."""

    source: ref[Tensor]
    address: int
    version: int
    weight: Tensor


_reordered: WeakKeyDictionary[nn.Module, Reordered] = WeakKeyDictionary()
"""Beside the layers, so that their copies and files have no part in it."""


class PrepackedLinear(nn.Linear):
    """`nn.Linear`; without gradients, on a CPU and in single precision it works from reordered weights.

    They are made at the first call, again after the weights have changed, and dropped in training.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self._ready(x):
            _reordered.pop(self, None)
            return super().forward(x)
        return torch.ops.mkldnn._linear_pointwise(x, self._weight_for(x), self.bias, "none", [], "")

    def _ready(self, x: Tensor) -> bool:
        return (
            USABLE
            and not torch.is_grad_enabled()
            # An exported graph has to be one of common operators, and a compiler chooses for itself.
            and not torch.onnx.is_in_onnx_export()
            and not torch.compiler.is_compiling()
            and x.dtype == torch.float32
            and x.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
            and "weight" in self._parameters  # else it is computed anew, as with adapters
            and self.weight.dtype == torch.float32
            and self.weight.device.type == "cpu"
            and not self.weight.is_inference()  # such a weight does not tell when it changes
        )

    def _weight_for(self, x: Tensor) -> Tensor:
        now, kept = self.weight, _reordered.get(self)
        state = (now.data_ptr(), now._version)
        if kept is None or kept.source() is not now or (kept.address, kept.version) != state:
            rows = x.numel() // x.shape[-1]  # the order is chosen for about so many
            reordered = torch.ops.mkldnn._reorder_linear_weight(now.detach(), rows)
            kept = _reordered[self] = Reordered(ref(now), *state, reordered)
        return kept.weight


def prepack_linears(net: Net) -> Net:
    """Makes every `nn.Linear` of a net prepacked, with the parameters it has. In place; returns the net."""
    for module in net.modules():
        if type(module) is nn.Linear:
            module.__class__ = PrepackedLinear
    return net
