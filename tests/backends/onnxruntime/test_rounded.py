"""What a file rounds, divided by its step, gives the codes of the quantizer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qpass.backends.onnxruntime.rounded import cut_off, rounding_of
from qpass.quantizers import QUANTIZERS, ByteTable, Codebook, LookUp, Quantizer, Tan, Uniform

MAPS = torch.randn(8, 24, 24, generator=torch.Generator().manual_seed(0)).mul(3).softmax(-1)


def quantizers(bits: int) -> dict[str, Quantizer]:
    found = {name: kind(bits).fit(MAPS.flatten()) for name, kind in QUANTIZERS.items()}
    codebook = found["codebook"]
    assert isinstance(codebook, Codebook)
    return {**found, "table": LookUp.of(found["tan"]), "codebook": ByteTable.of(codebook)}  # as they are deployed


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("name", [*QUANTIZERS, "table"])
def test_codes_are_the_rounded_value_in_steps(name: str, bits: int) -> None:
    quantizer, x = quantizers(bits)[name], MAPS.double()
    rounding = rounding_of(quantizer)
    assert rounding is not None
    position = rounding.value(x) / float(rounding.step) + rounding.zero_point
    decided = (position - position.floor() - 0.5).abs() > 1e-3
    codes = position.round().clamp(quantizer.code_min, quantizer.code_max)
    expected = quantizer.codes(MAPS).double()
    assert decided.double().mean() > 0.9
    assert torch.equal(codes[decided], expected[decided])


@pytest.mark.parametrize("name", [*QUANTIZERS, "table"])
def test_what_is_cut_off_has_the_lowest_code_anyway(name: str) -> None:
    quantizer = quantizers(4)[name]
    rounding = rounding_of(quantizer)
    assert rounding is not None
    x = torch.tensor([0.0, 1e-40, 1e-20, 1e-6, 0.1, 1.0]).double()
    value = rounding.value(x)
    cut = cut_off(quantizer, rounding, value)

    def codes(value: Tensor) -> Tensor:
        steps = value / float(rounding.step) + rounding.zero_point
        return steps.round().clamp(quantizer.code_min, quantizer.code_max)

    assert torch.equal(codes(cut), codes(value))
    assert cut.isfinite().all()


def test_a_quantizer_with_an_axis_or_of_another_class_has_none() -> None:
    class Other(Tan):
        pass

    assert rounding_of(Uniform(4, axis=0).fit(torch.randn(3, 8))) is None
    assert rounding_of(Other(4).fit(MAPS.flatten())) is None
