from __future__ import annotations

import torch
from torch import Tensor, nn

from qpass.nn import QuantizedConv, QuantizedLinear
from qpass.passes.analysis.layer_data import LayerData


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


LAYER = QuantizedLinear(rows(2, 9), None, None)


def test_sums_leave_every_fourth_batch_out_and_a_row_of_weight_two_counts_twice() -> None:
    x, y = [rows(6, i) for i in range(5)], [rows(6, 10 + i) for i in range(5)]
    weights = [torch.tensor([1.0, 2, 1, 1, 0, 3], dtype=torch.float64)] * 5
    sums = LayerData(LAYER, x, y, weights).sums()
    repeated = [torch.cat([side[i].double().repeat_interleave(weights[i].long(), 0) for i in (0, 1, 2, 4)]) for side in (x, y)]
    torch.testing.assert_close(sums.gram, repeated[0].T @ repeated[0])
    torch.testing.assert_close(sums.drift, (repeated[1] - repeated[0]).T @ repeated[0])
    torch.testing.assert_close(sums.mean, repeated[0].mean(0))
    torch.testing.assert_close(sums.wanted_mean, repeated[1].mean(0))


def test_the_batches_that_judge_choose_the_nearest() -> None:
    x = [rows(6, i) for i in range(4)]
    weight = rows(2, 9).double()
    candidates = torch.stack([weight + 0.2, weight + 0.1, weight - 0.3])
    data = LayerData(LAYER, x, x, None)
    assert torch.equal(data.nearest(candidates, weight), candidates[1])
    expected = [(x[3].double() @ (candidate - weight).T).square().sum() for candidate in candidates]
    torch.testing.assert_close(torch.tensor(data.errors(candidates, weight)), torch.stack(expected).float())


def test_weights_decide_between_candidates_that_serve_different_rows() -> None:
    x = [torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])] * 4
    weight = torch.zeros(2, 3, dtype=torch.float64)
    serves_first, serves_second = weight.clone(), weight.clone()
    serves_first[:, 1] = serves_second[:, 0] = 1.0
    for row_weights, best in (([5.0, 1.0], serves_first), ([1.0, 5.0], serves_second)):
        data = LayerData(LAYER, x, x, [torch.tensor(row_weights, dtype=torch.float64)] * 4)
        assert torch.equal(data.nearest(torch.stack([serves_first, serves_second]), weight), best)


def test_rows_of_a_convolution_are_its_windows() -> None:
    layer = QuantizedConv(torch.randn(4, 3, 2, 2), None, None)
    x = torch.randn(2, 3, 4, 6)
    product = layer.rows(x) @ layer.weight.flatten(1).T  # type: ignore[union-attr]
    expected = nn.functional.conv2d(x, layer.weight, stride=2).flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(product, expected)


def test_rows_of_another_number_are_their_own_targets_and_weigh_alike() -> None:
    """Experts of the quantized network are given other rows than those of the float network."""
    x, y = [rows(4, 0), rows(6, 1)], [rows(4, 2), rows(5, 3)]
    weights = [torch.tensor([1.0, 2, 3, 4], dtype=torch.float64), torch.ones(5, dtype=torch.float64) * 7]
    sums = LayerData(LAYER, x, y, weights).sums()
    weighed = [x[0].double() * weights[0][:, None], x[1].double()]
    torch.testing.assert_close(sums.gram, weighed[0].T @ x[0].double() + weighed[1].T @ x[1].double())
    torch.testing.assert_close(sums.drift, (y[0] - x[0]).double().T @ weighed[0])
    torch.testing.assert_close(sums.mean, (weighed[0].sum(0) + weighed[1].sum(0)) / 16)


def test_a_layer_without_rows_has_sums_of_zero() -> None:
    none = [torch.empty(0, 3)] * 2
    sums = LayerData(LAYER, none, none, [torch.empty(0, dtype=torch.float64)] * 2).sums()
    for found in (sums.gram, sums.drift, sums.mean, sums.wanted_mean):
        assert not found.any()
