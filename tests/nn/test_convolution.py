"""Convolutions with a quantized weight: windows, rows, groups, and biases in steps of integer sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qpass.nn import QuantizedConv
from qpass.quantizers import Uniform, WeightCodebook

KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def layer_of(convolution: Any) -> QuantizedConv:
    weight = convolution.weight.detach()
    quantizer = Uniform(4, signed=True, axis=0).fit(weight.flatten(1))
    windows = {name: getattr(convolution, name) for name in ("groups", "stride", "padding", "dilation")}
    return QuantizedConv(weight, convolution.bias, quantizer, **windows)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    dims, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4]))
    each = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * dims))  # noqa: E731
    sides, stride, padding, dilation = each(1, 3), each(1, 3), each(0, 3), each(1, 2)
    size = tuple(d * (k - 1) + 1 + more for d, k, more in zip(dilation, sides, each(0, 4), strict=True))
    return KINDS[dims](4, 8, sides, stride, padding, dilation, groups), size


@settings(max_examples=15, deadline=None)
@given(convolutions())
def test_it_is_torchs_convolution_and_rows_times_the_weight(case: tuple[Any, tuple[int, ...]]) -> None:
    convolution, size = case
    layer, x = layer_of(convolution), seeded(2, 4, *size)
    with torch.no_grad():
        weight = layer.quantized_weight()
        assert torch.equal(layer.product(x, convolution.weight, convolution.bias), convolution(x))
        expected = layer.product(x.double(), weight.double())
        assert tuple(layer.output_shape(x.shape)) == expected.shape
        outputs, channels = 8 // convolution.groups, 4 // convolution.groups
        for index in range(convolution.groups):
            own = slice(index * outputs, (index + 1) * outputs)
            rows = layer.group(own).rows(x[:, index * channels : (index + 1) * channels]).double()
            product = (rows @ weight[own].flatten(1).double().T).view(2, -1, outputs).mT
            torch.testing.assert_close(product, expected[:, own].flatten(2))


def test_windows_tile_the_input_by_default() -> None:
    layer = QuantizedConv(seeded(4, 3, 2, 3), None, None)
    assert (layer.stride, layer.padding, layer.dilation, layer.tiles) == ((2, 3), (0, 0), (1, 1), True)
    assert layer.windows == {"groups": 1}


@pytest.mark.parametrize(
    ("options", "tiles"),
    [
        ({"stride": 2}, True),
        ({"stride": 1}, False),
        ({"stride": 2, "padding": 1}, False),
        ({"stride": 2, "dilation": 2}, False),
    ],
)
def test_windows_tile_only_without_gaps_and_overlaps(options: dict[str, int], tiles: bool) -> None:
    assert layer_of(nn.Conv1d(3, 4, 2, **options)).tiles == tiles


@pytest.mark.parametrize("quantizer", [Uniform(4, signed=True, axis=0), WeightCodebook(3)], ids=["uniform", "codebook"])
def test_a_group_is_put_back_where_it_was_taken(quantizer: Any) -> None:
    weight = seeded(4, 2, 3)
    layer = QuantizedConv(weight, torch.zeros(4), quantizer.fit(weight.flatten(1)), groups=2)
    part = slice(2, 4)
    group = layer.group(part)
    with torch.no_grad():
        group.weight.add_(1)
        group.bias.add_(2)
        group.quantizer.scale = (
            nn.Parameter(group.quantizer.scale * 3) if isinstance(quantizer, Uniform) else group.quantizer.scale * 3
        )
    scale = layer.quantizer.scale.clone()
    layer.put_group(part, group)
    assert torch.equal(layer.weight, torch.cat([weight[:2], weight[2:] + 1]))
    assert torch.equal(layer.bias, torch.tensor([0.0, 0, 2, 2]))
    changed = isinstance(quantizer, WeightCodebook)  # scales of equal steps are not fitted again
    torch.testing.assert_close(layer.quantizer.scale, torch.cat([scale[:2], scale[2:] * (3 if changed else 1)]))


@pytest.mark.parametrize("magnitude", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("seed", range(5))
def test_a_bias_becomes_whole_steps_and_stays_so(magnitude: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer, scale = layer_of(nn.Conv2d(3, 64, 3)), torch.tensor(0.0173)
    bias = seeded(64) * magnitude
    layer.bias = nn.Parameter(bias.clone())
    layer.round_bias(scale)
    step = scale.double() * layer.quantizer.scale.detach().double()
    steps = layer.bias.double() / step
    torch.testing.assert_close(steps, steps.round(), rtol=2e-7, atol=1e-6)
    # Steps are rounded to whole ones, then to 22 bits, and their product with a float32 scale to float32.
    assert ((layer.bias - bias).abs() <= 0.5001 * step + bias.abs() * (2**-22 + 2**-24)).all()
    found = layer.bias_steps(scale)
    assert torch.equal(found, found.float().double()), "a float32 holds them"
    assert torch.equal(layer.bias, found.float() * (scale * layer.quantizer.scale))
    assert not layer.round_bias(scale)


def test_a_bias_too_large_for_integer_sums_stays_as_it_is() -> None:
    layer = layer_of(nn.Conv2d(3, 4, 3))
    layer.bias = nn.Parameter(torch.full((4,), 1e9))
    assert layer.bias_steps(torch.tensor(0.01)) is None
    assert not layer.round_bias(torch.tensor(0.01))
    assert torch.equal(layer.bias, torch.full((4,), 1e9))
