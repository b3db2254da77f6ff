"""Packing weights into six bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xattn.model import quantize


@given(
    shape=st.lists(st.integers(1, 70), min_size=2, max_size=3),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_error_is_at_most_half_a_step_of_the_group(shape: list[int], scale: float, seed: int) -> None:
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    packed, scales = quantize.quantize(weights)
    restored = quantize.dequantize(packed, scales, tuple(shape))
    assert restored.shape == weights.shape
    # Half a step of the coarsest group, and what rounding the scale to half precision adds to it.
    step = scales.float().max().item()
    assert (restored - weights).abs().max().item() <= step * (0.5 + 31 * 2**-11)


def test_by_hand() -> None:
    row = torch.zeros(1, 64)
    row[0, :4] = torch.tensor([31.0, -31.0, 1.0, 0.0])
    packed, scales = quantize.quantize(row)
    assert scales.tolist() == [1.0]
    assert packed.numel() == 48  # 64 numbers of 6 bits
    # 62, 0, 32, 31 → 62 | 0<<6 | 32<<12 | 31<<18
    word = 62 | 32 << 12 | 31 << 18
    assert packed[:3].tolist() == [word & 255, word >> 8 & 255, word >> 16]
    assert torch.equal(quantize.dequantize(packed, scales, (1, 64)), row)


def test_zero_rows_stay_zero() -> None:
    packed, scales = quantize.quantize(torch.zeros(3, 100))
    assert torch.equal(quantize.dequantize(packed, scales, (3, 100)), torch.zeros(3, 100))


def test_state_round_trip_keeps_names_shapes_and_small_tensors() -> None:
    state = {
        "big.weight": torch.randn(400, 400),
        "small.weight": torch.randn(4, 5),
        "norm.bias": torch.randn(400),
        "steps": torch.tensor(7),
    }
    restored = quantize.unpack_state(quantize.pack_state(state))
    assert {k: v.shape for k, v in restored.items()} == {k: v.shape for k, v in state.items()}
    assert restored["steps"].item() == 7
    torch.testing.assert_close(restored["small.weight"], state["small.weight"], atol=0, rtol=1e-3)
    error = (restored["big.weight"] - state["big.weight"]).std() / state["big.weight"].std()
    assert error.item() == pytest.approx(0.024, abs=0.004)  # 1/√12 of a step of max|w|/31
