from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from qpass.quantizers import Uniform


def quantize_in_float64(x: np.ndarray, scale: float, zero_point: int, least: int, greatest: int) -> np.ndarray:
    return np.clip(np.rint(x.astype(np.float64) / scale) + zero_point, least, greatest)


def test_worked_example() -> None:
    # Range [-1, 2] at 2 bits: s = 1, z = 1, levels -1, 0, 1, 2; ties go to even.
    quantizer = Uniform(2, percentiles=(1.0,)).fit(torch.tensor([-1.0, 2.0]))
    assert quantizer.scale == 1
    assert quantizer.zero_point == 1
    x = torch.tensor([-3.0, -0.5, 0.5, 1.5, 1.51, 9.0])
    assert quantizer.encode(x).tolist() == [0, 1, 1, 3, 3, 3]
    assert quantizer(x).tolist() == [-1, 0, 0, 2, 2, 2]


def test_symmetric_worked_example() -> None:
    quantizer = Uniform(4, symmetric=True, percentiles=(1.0,)).fit(torch.tensor([-3.5, 7.0]))
    assert quantizer.scale == 1
    assert quantizer.encode(torch.tensor([-9.0, -3.5, 7.4])).tolist() == [-8, -4, 7]
    assert quantizer.zero_point == 0


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8), signed=st.booleans(), low=st.floats(-100, 0), width=st.floats(0.01, 200), seed=st.integers(0, 999)
)
def test_codes_equal_float64_rounding(bits: int, signed: bool, low: float, width: float, seed: int) -> None:
    x = torch.rand(500, generator=torch.Generator().manual_seed(seed)) * width + low
    quantizer = Uniform(bits, signed=signed).fit(x)
    scale, zero = quantizer.scale.item(), int(quantizer.zero_point.item())
    expected = quantize_in_float64(x.numpy(), scale, zero, quantizer.code_min, quantizer.code_max)
    position = x.double().numpy() / scale
    off_tie = np.abs(position - np.floor(position) - 0.5) > 1e-4
    assert (quantizer.encode(x).numpy() == expected)[off_tie].all()
    assert quantizer.code_min <= zero <= quantizer.code_max, "an ONNX zero point is a code"


def test_eight_bits_equal_onnx_quantize_linear_bit_for_bit() -> None:
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    quantizer = Uniform(8).fit(x)
    scale, zero = quantizer.scale.numpy(), quantizer.zero_point.numpy().astype(np.uint8)
    assert (quantizer.encode(x).numpy() == onnx_quantize(x.numpy(), scale, zero)).all()


def onnx_quantize(x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[N] x, float s, uint8 z) => (uint8[N] y) { y = QuantizeLinear(x, s, z) }'
    )
    (codes,) = ReferenceEvaluator(model).run(None, {"x": x, "s": scale, "z": zero})
    return codes


def test_percentile_search_finds_the_least_squared_error() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(20_000, generator=generator), torch.tensor([40.0, -40.0])])
    percentiles = (0.99, 0.999, 0.9999, 1.0)
    searched = Uniform(4, percentiles=percentiles).fit(x)
    errors = {p: (Uniform(4, percentiles=(p,)).fit(x)(x) - x).square().sum().item() for p in percentiles}
    assert (searched(x) - x).square().sum().item() == pytest.approx(min(errors.values()), rel=1e-5)
    assert errors[1.0] > min(errors.values())


def test_channels_are_fitted_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 64, generator=generator) * torch.tensor([0.01, 0.1, 1, 10, 100])[:, None]
    together = Uniform(4, axis=0, symmetric=True).fit(weight)
    for channel in range(5):
        alone = Uniform(4, symmetric=True).fit(weight[channel])
        assert together.scale[channel] == alone.scale
        assert torch.equal(together(weight)[channel], alone(weight[channel]))


@pytest.mark.parametrize("value", [0.3, -0.3, 1e-3, 0.0])
@pytest.mark.parametrize("free", [False, True])
def test_a_dead_channel_is_represented_exactly(value: float, free: bool) -> None:
    rows = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    rows[2] = value
    quantizer = Uniform(4, axis=0, free_zero_point=free).fit(rows)
    assert quantizer.scale.isfinite().all()
    assert (quantizer.scale > 0).all()
    torch.testing.assert_close(quantizer(rows)[2], rows[2], rtol=1e-5, atol=1e-12)


def test_weights_count_as_repetitions() -> None:
    x, counts = torch.tensor([0.0, 1.0, 2.0, 30.0]), torch.tensor([500, 300, 200, 1])
    repeated = Uniform(4).fit(x.repeat_interleave(counts))
    weighted = Uniform(4).fit(x, counts)
    assert weighted.scale == repeated.scale
    assert weighted.zero_point == repeated.zero_point


def test_a_criterion_replaces_the_squared_error() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    finest = Uniform(8, percentiles=(0.6, 0.9, 1.0)).fit(x, criterion=lambda quantizer: quantizer.scale.item())
    assert finest.scale == Uniform(8, percentiles=(0.6,)).fit(x).scale


@given(bits=st.integers(2, 8), low=st.floats(-3, 0), high=st.floats(0.1, 3), zero=st.integers(-50, 400))
def test_codes_stored_elsewhere_stand_for_the_same_values(bits: int, low: float, high: float, zero: int) -> None:
    quantizer = Uniform(bits, percentiles=(1.0,)).fit(torch.tensor([low, high]))
    x = torch.linspace(-4, 4, 400)
    before, codes = quantizer(x), quantizer.encode(x).int()
    quantizer.shift_codes(zero)
    again = Uniform(**quantizer.config).set_parameters(quantizer.scale, quantizer.zero_point)
    assert torch.equal(quantizer(x), before)
    assert torch.equal(again(x), before)
    assert quantizer.encode(x).int().sub(codes).unique().tolist() == [again.code_min]
    assert 0 <= again.code_min <= again.code_max <= 255
    if 2**bits <= zero <= 255 - 2**bits:
        assert quantizer.zero_point == zero


@pytest.mark.parametrize("axis", [None, 0])
def test_the_gradient_of_the_scale_is_the_closed_form(axis: int | None) -> None:
    """LSQ, eq. 3: [x/s] - x/s inside, the nearest bound outside; summed for each scale."""
    scale = torch.tensor(0.5) if axis is None else torch.tensor([0.5, 0.25])
    quantizer = Uniform(3, axis=axis).set_parameters(scale, torch.full_like(scale, 2.0))
    quantizer.scale.requires_grad_()
    x = torch.tensor([[-3.0, -0.9, 0.1, 1.3, 9.0], [-0.4, -0.1, 0.3, 0.6, 1.0]])
    upstream = torch.tensor([[1.0, -2.0, 0.5, 3.0, 0.25], [1.0, 2.0, 3.0, 4.0, 5.0]])
    (quantizer(x) * upstream).sum().backward()
    u = x.double() / (scale.double() if axis is None else scale.double()[:, None])
    by_element = torch.where(u.round() < -2, -2.0, torch.where(u.round() > 5, 5.0, u.round() - u)) * upstream
    expected = by_element.sum() if axis is None else by_element.sum(1)
    assert quantizer.scale.grad is not None
    torch.testing.assert_close(quantizer.scale.grad.double(), expected, rtol=1e-5, atol=1e-6)


def test_outside_the_range_the_gradient_of_the_scale_is_the_finite_difference() -> None:
    quantizer = Uniform(4).set_parameters(torch.tensor(0.1), torch.tensor(3.0))
    x = torch.tensor([-2.0, 5.0, 7.0])
    ends = [quantizer.set_parameters(torch.tensor(s), torch.tensor(3.0))(x).double().sum() for s in (0.09, 0.11)]
    quantizer.set_parameters(torch.tensor(0.1), torch.tensor(3.0)).scale.requires_grad_()
    quantizer(x).sum().backward()
    assert quantizer.scale.grad is not None
    assert quantizer.scale.grad.item() == pytest.approx((ends[1] - ends[0]).item() / 0.02, rel=1e-4)


@pytest.mark.parametrize("first_code", [0, 5, 100, 240])
@pytest.mark.parametrize("wanted", [-40, 0, 1, 128, 255, 300])
def test_codes_move_towards_a_zero_point_as_far_as_bytes_hold_them(first_code: int, wanted: int) -> None:
    quantizer = Uniform(4, first_code=first_code).set_parameters(torch.tensor(0.5), torch.tensor(first_code + 3.0))
    values = quantizer.levels()
    nearest = min((zero for zero in range(256) if zero - 3 >= 0 and zero - 3 + 15 <= 255), key=lambda zero: abs(zero - wanted))
    quantizer.shift_codes(wanted)
    assert quantizer.zero_point.item() == nearest
    assert (quantizer.code_min, quantizer.code_max) == (nearest - 3, nearest + 12)
    assert torch.equal(quantizer.levels(), values)
    assert torch.equal(quantizer.encode(values).int(), torch.arange(nearest - 3, nearest + 13, dtype=torch.int))


def test_some_rows_are_quantized_as_among_all() -> None:
    weight = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    quantizer = Uniform(3, axis=0).fit(weight)
    assert torch.equal(quantizer.rows(slice(2, 5))(weight[2:5]), quantizer(weight)[2:5])
