"""Prepacked linear layers give what torch's own give, whatever happens to their weights."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from xattn.encoders.hybrid import prepack_linear
from xattn.encoders.hybrid.prepack_linear import PrepackedLinear, prepack_linears
from xattn.training.lora import add_adapters, merge_adapters

needs_operators = pytest.mark.skipif(
    not prepack_linear.USABLE, reason="torch here has no oneDNN operators for x86"
)


def net(inputs: int = 7, outputs: int = 5, bias: bool = True) -> nn.Linear:
    return prepack_linears(nn.Sequential(nn.Linear(inputs, outputs, bias=bias)))[0]  # type: ignore[return-value]


def expected(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())


def assert_right(layer: nn.Linear, x: Tensor) -> None:
    torch.testing.assert_close(layer(x).double(), expected(layer, x), atol=1e-5, rtol=1e-5)


@settings(deadline=None)
@given(
    lead=st.lists(st.integers(0, 5), max_size=3),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    bias=st.booleans(),
)
def test_equals_a_linear_layer(lead: list[int], inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        assert_right(net(inputs, outputs, bias), torch.randn(*lead, inputs))


def test_takes_inputs_that_lie_in_memory_in_another_order() -> None:
    with torch.no_grad():
        assert_right(net(), torch.randn(7, 3, 2).permute(2, 1, 0))


@needs_operators
def test_weights_are_reordered_once_and_dropped_in_training() -> None:
    layer, x = net(), torch.randn(4, 7)
    with torch.inference_mode():
        layer(x)
        kept = prepack_linear._reordered[layer]
        layer(torch.randn(9, 7))
        assert prepack_linear._reordered[layer] is kept
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert layer not in prepack_linear._reordered


@needs_operators
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(2),
        lambda layer: layer.load_state_dict({"weight": torch.randn(5, 7), "bias": torch.randn(5)}),
        lambda layer: layer.load_state_dict(
            {"weight": torch.randn(5, 7), "bias": torch.randn(5)}, assign=True
        ),
        lambda layer: setattr(layer, "weight", nn.Parameter(torch.randn(5, 7))),
        lambda layer: layer.double(),
    ],
    ids=["in place", "loaded", "assigned", "replaced", "other precision"],
)
def test_changed_weights_are_noticed(change: object) -> None:
    layer, x = net(), torch.randn(4, 7)
    with torch.no_grad():
        layer(x)
        assert layer in prepack_linear._reordered
        change(layer)  # type: ignore[operator]
        assert_right(layer, x.to(layer.weight.dtype))


def test_adapters_are_noticed() -> None:
    layer, x = net(), torch.randn(4, 7)
    with torch.no_grad():
        layer(x)
    add_adapters([layer], rank=2, alpha=4.0)
    with torch.no_grad():
        layer.parametrizations.weight[0].up.normal_()
        assert_right(layer, x)
        merge_adapters(layer)
        assert_right(layer, x)


def test_copies_and_files_know_nothing_of_it() -> None:
    layer, x = net(), torch.randn(4, 7)
    with torch.no_grad():
        layer(x)
        other = copy.deepcopy(layer)
        other.weight.zero_()
        assert_right(other, x)
        assert_right(layer, x)
    assert sorted(layer.state_dict()) == ["bias", "weight"]


def test_a_net_keeps_its_parameters_and_other_layers() -> None:
    plain = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 2)))
    weights = [parameter.data_ptr() for parameter in plain.parameters()]
    packed = prepack_linears(plain)
    assert [parameter.data_ptr() for parameter in packed.parameters()] == weights
    assert [type(module) for module in (packed[0], packed[1], packed[2][0])] == [
        PrepackedLinear,
        nn.LayerNorm,
        PrepackedLinear,
    ]
