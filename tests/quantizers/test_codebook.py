from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qpass.config import QuantSpec
from qpass.errors import QPassError
from qpass.quantizers import ByteTable, Codebook, Uniform, build_quantizer


def skewed(seed: int = 0, samples: int = 4000) -> Tensor:
    """Like the output of a GELU: most values just below 0, a long tail above."""
    return torch.nn.functional.gelu(2 * torch.randn(samples, generator=torch.Generator().manual_seed(seed)))


def error(quantizer: Codebook | Uniform, x: Tensor) -> float:
    return float((quantizer(x) - x).double().square().sum())


def test_four_values_that_lie_on_the_grid_are_its_levels() -> None:
    x = torch.tensor([0.0, 3.0, 40.0, 255.0]).repeat(50) / 16
    codebook = Codebook(2, percentiles=(1.0,)).fit(x)
    assert codebook.levels_on_grid.tolist() == [0, 3, 40, 255]
    assert torch.equal(codebook(x), x)
    assert codebook.encode(x[:4]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_no_move_of_a_level_lowers_the_error(bits: int) -> None:
    """Exact k-means: neither a move of one level nor fewer steps of k-means from any start is better."""
    x = skewed()
    codebook = Codebook(bits, percentiles=(1.0,)).fit(x)
    # The error in units of the grid, each value at the level nearest to its own cell.
    cells = codebook.grid.codes(x)
    exact = (x / codebook.scale).double() + codebook.zero_point

    def cost(levels: Tensor) -> float:
        nearest = (cells[:, None] - levels).abs().argmin(1)
        return float((exact - levels[nearest]).square().sum())

    found = codebook.levels_on_grid
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        other = found.clone()
        place = int(torch.randint(len(found), (), generator=generator))
        other[place] = (other[place] + float(torch.randint(-3, 4, (), generator=generator))).clamp(0, 255)
        # Thresholds between cells are those of whole numbers: a hundredth of the error is left to them.
        assert cost(found) <= 1.01 * cost(other.sort().values)
    assert error(codebook, x) < 0.9 * error(Uniform(bits, percentiles=(0.99, 0.999, 1.0)).fit(x), x)


def test_weights_count_values_more_than_once() -> None:
    x, counts = skewed(samples=300), torch.randint(1, 5, (300,), generator=torch.Generator().manual_seed(2))
    weighted = Codebook(3).fit(x, counts)
    repeated = Codebook(3).fit(x.repeat_interleave(counts))
    assert torch.equal(weighted.levels_on_grid, repeated.levels_on_grid)
    torch.testing.assert_close(weighted.scale, repeated.scale)


def test_a_criterion_chooses_the_range_of_the_grid() -> None:
    x = torch.cat([skewed(), torch.tensor([400.0])])
    widest = Codebook(3).fit(x, criterion=lambda quantizer: -float(quantizer.scale))  # type: ignore[arg-type]
    narrowest = Codebook(3).fit(x, criterion=lambda quantizer: float(quantizer.scale))  # type: ignore[arg-type]
    assert widest.scale > 2 * narrowest.scale
    assert widest.grid.percentiles == Codebook(3).grid.percentiles, "those tried one by one are put back"


def test_a_constant_tensor_has_all_levels_and_no_error() -> None:
    for value in (0.0, 2.5, -3.0):
        codebook = Codebook(4).fit(torch.full((50,), value))
        assert codebook.levels_on_grid.unique().numel() == 16
        torch.testing.assert_close(codebook(torch.tensor(value)), torch.tensor(value))


def test_channels_have_their_own_scale_and_share_levels() -> None:
    x = torch.stack([skewed(seed) * size + 7 * seed for seed, size in enumerate((1.0, 30.0, 0.01))])
    codebook = Codebook(3, axis=-1, free_zero_point=True).fit(x)
    assert codebook.scale.shape == (3,)
    assert codebook.levels_on_grid.shape == (8,)
    relative = (codebook(x.T).T - x).square().sum(1) / (x - x.mean(1, keepdim=True)).square().sum(1)
    assert (relative < 0.05).all()
    with pytest.raises(QPassError, match="a scale for each channel"):
        ByteTable.of(codebook)
    merged = codebook.layer_wise(torch.tensor(0.5), torch.tensor(3.0))
    assert torch.equal(merged.levels(), (codebook.levels_on_grid - 3) * 0.5)


def test_the_gradients_are_those_of_the_grid_with_every_rounding_left_out() -> None:
    x = skewed(samples=200).requires_grad_()
    codebook = Codebook(3, percentiles=(0.98,)).fit(x.detach())
    codebook.grid.scale.requires_grad_()
    codebook(x).sum().backward()
    with torch.no_grad():
        steps = (x / codebook.scale).round() + codebook.zero_point
        unclipped = (steps >= 0) & (steps <= 255)
        levels = codebook.levels_on_grid[codebook.encode(x).long()] - codebook.zero_point
        to_scale = (levels - torch.where(unclipped, x / codebook.scale, 0.0)).sum()
    assert not unclipped.all()
    assert torch.equal(x.grad, unclipped.float())
    torch.testing.assert_close(codebook.grid.scale.grad, to_scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("signed", [False, True])
def test_the_table_holds_the_nearest_level_of_each_cell(signed: bool) -> None:
    x = skewed() - 0.5
    codebook = Codebook(3, signed=signed).fit(x)
    table = ByteTable.of(codebook)
    assert table.table.dtype == (torch.int8 if signed else torch.uint8)
    levels = codebook.levels_on_grid
    for cell in range(256):
        distance = (levels - cell).abs()
        assert int(table.table[cell]) + 128 * signed in levels[distance == distance.min()].tolist()
    assert torch.equal(table(x), codebook(x)), "the same values"
    assert torch.equal(table.levels(), codebook.levels())
    assert (table.bits, table.label) == (3, "Codebook")
    with pytest.raises(QPassError, match="not fitted to data"):
        table.fit(x)


def test_of_eight_bits_a_codebook_has_every_level_and_is_uniform() -> None:
    spec = QuantSpec(bits=8, quantizer="codebook")
    for axis, symmetric in ((None, False), (0, True)):
        built = build_quantizer(spec, axis=axis)
        assert isinstance(built, Uniform)
        assert (built.bits, built.symmetric, built.axis) == (8, symmetric, axis)
    assert isinstance(build_quantizer(QuantSpec(bits=7, quantizer="codebook")), Codebook)


def test_each_level_has_the_gradients_of_the_values_that_take_it() -> None:
    x, target = skewed(), skewed(1)
    codebook = Codebook(2).fit(x)
    codebook.levels_on_grid.requires_grad_()
    (codebook(x) - target).square().sum().backward()
    with torch.no_grad():
        residual, codes = 2 * (codebook(x) - target) * codebook.scale, codebook.encode(x)
    expected = torch.stack([residual[codes == code].sum() for code in range(4)])
    torch.testing.assert_close(codebook.levels_on_grid.grad, expected, rtol=1e-4, atol=1e-3)


def test_learned_levels_stay_on_the_grid_in_order_and_end_as_whole_numbers_that_differ() -> None:
    codebook = Codebook(2).fit(skewed())
    codebook.levels_on_grid.copy_(torch.tensor([-3.0, 40.2, 39.9, 300.0])).requires_grad_()
    codebook.project()
    torch.testing.assert_close(codebook.levels_on_grid.detach(), torch.tensor([0, 39.9, 40.2, 255]))
    assert len(codebook(skewed()).unique()) == 3, "two levels round to the same number"
    codebook.levels_on_grid.requires_grad_(False)
    codebook.settle()
    assert codebook.levels_on_grid.tolist() == [0, 39, 40, 255]


def test_a_codebook_that_learns_computes_what_is_deployed() -> None:
    x, codebook = skewed(), Codebook(3).fit(skewed())
    codebook.levels_on_grid.requires_grad_().data.add_(torch.linspace(-0.4, 0.4, 8))
    learning = codebook(x).detach()
    codebook.levels_on_grid.requires_grad_(False)
    assert torch.equal(codebook.settle()(x), learning)
