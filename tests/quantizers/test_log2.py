from __future__ import annotations

import math

import pytest
import torch

from qpass.quantizers import Log2, LogSqrt2


@pytest.mark.parametrize(("kind", "m"), [(Log2, 1), (LogSqrt2, 2)])
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_equals_the_paper_in_float64(kind: type[Log2], m: int, bits: int) -> None:
    """q = clamp([-log2(x / s) m], 0, L), x̂ = s 2^(-q / m), stored as L - q."""
    scale, top = 0.7, 2**bits - 1
    quantizer = kind(bits, zero_code=False).set_parameters(torch.tensor(scale))
    x = torch.rand(2000, generator=torch.Generator().manual_seed(0)) ** 4
    for value, code, approximation in zip(x.tolist(), quantizer.encode(x).tolist(), quantizer(x).tolist(), strict=True):
        position = -math.log2(value / torch.tensor(scale).item()) * m
        q = min(max(round(position), 0), top)
        if abs(position - math.floor(position) - 0.5) > 1e-4:
            assert code == top - q
            assert approximation == pytest.approx(scale * 2 ** (-q / m), rel=1e-5)


def test_worked_values() -> None:
    quantizer = Log2(3).set_parameters(torch.tensor(1.0))
    x = torch.tensor([1.0, 0.5, 0.25, 0.02, 0.0, 3.0])
    assert quantizer.encode(x).tolist() == [7, 6, 5, 1, 0, 7]
    assert quantizer(x).tolist() == pytest.approx([1.0, 0.5, 0.25, 2**-6, 0.0, 1.0])


def test_zero_has_a_code_unless_it_is_switched_off() -> None:
    x = torch.tensor([0.0, 1e-30, 1.0])
    assert Log2(4).set_parameters(torch.tensor(1.0))(x).tolist() == [0.0, 0.0, 1.0]
    assert Log2(4, zero_code=False).set_parameters(torch.tensor(1.0))(x).tolist() == pytest.approx([2**-15, 2**-15, 1.0])


def test_scale_is_the_percentile_with_the_least_error() -> None:
    x = torch.rand(5000, generator=torch.Generator().manual_seed(0)) * 0.3
    x[0] = 1.0
    errors = {p: (Log2(4, percentiles=(p,)).fit(x)(x) - x).square().sum().item() for p in (0.9, 0.999, 1.0)}
    best = Log2(4, percentiles=(0.9, 0.999, 1.0)).fit(x)
    assert (best(x) - x).square().sum().item() == pytest.approx(min(errors.values()), rel=1e-4)
