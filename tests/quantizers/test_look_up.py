from __future__ import annotations

import pytest
import torch

from qpass.errors import QPassError
from qpass.quantizers import LookUp, ShiftLog2, Tan, Uniform

MAPS = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(0)).mul(3).softmax(-1)


def test_its_values_are_those_of_the_formula() -> None:
    quantizer = Tan(4).fit(MAPS)
    table = LookUp.of(quantizer)
    assert set(table.levels().tolist()) <= set(quantizer.levels().tolist())
    assert table.label == "Tan (table)"
    assert (table.bits, table.code_max) == (4, 255)


def test_thresholds_move_by_half_a_cell_at_most() -> None:
    """A cell is a ratio of x; the lowest threshold does not move."""
    quantizer = Tan(4).fit(MAPS)
    table = LookUp.of(quantizer)
    x = torch.linspace(0, 1, 200_001)[1:].double()
    edges = [x[1:][found[1:] != found[:-1]] for found in (quantizer(x.float()), table(x.float()))]
    assert len(edges[0]) == len(edges[1])
    assert ((edges[0] / edges[1]).log().abs() < table.log_step / 2 + 1e-3).all()
    assert edges[0][0].item() == pytest.approx(edges[1][0].item(), abs=1e-5)


def test_zero_lies_in_the_first_cell() -> None:
    for quantizer in (Tan(4).fit(MAPS), ShiftLog2(4).fit(MAPS)):
        table = LookUp.of(quantizer)
        assert table.encode(torch.tensor([0.0, 1.0])).tolist() == [0, 255]
        assert table(torch.zeros(1)) == quantizer(torch.zeros(1))


def test_a_quantizer_of_integer_values_gives_a_table_of_bytes() -> None:
    quantizer = ShiftLog2(3, exponent_round=True).set_parameters(2.0**-5, 0.0, 1.0)
    table = LookUp.of(quantizer)
    assert table.integers
    assert table.table.dtype == torch.uint8
    assert set(table(MAPS).unique().tolist()) <= set(quantizer.levels().tolist())


def test_it_is_not_fitted() -> None:
    with pytest.raises(QPassError, match="not fitted to data"):
        LookUp(4).fit(MAPS)


def test_a_quantizer_that_gives_zero_everywhere_has_a_table_of_zeros() -> None:
    quantizer = Uniform(4).set_parameters(torch.tensor(5.0), torch.tensor(0.0))
    table = LookUp.of(quantizer)
    assert table.log_step > 0
    assert torch.equal(table(MAPS), torch.zeros_like(MAPS))
    assert torch.equal(table(MAPS), quantizer(MAPS))
