from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qpass.quantizers import Uniform, WeightCodebook


def weight(outputs: int = 6, inputs: int = 200, seed: int = 0) -> Tensor:
    """Long tails, and channels of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(outputs, inputs, generator=generator) ** 3
    return values * torch.logspace(-2, 2, outputs)[:, None]


def error(quantizer: WeightCodebook | Uniform, w: Tensor, cost: Tensor | float = 1.0) -> Tensor:
    """Relative, of each channel."""
    return (cost * (quantizer(w) - w).double().square()).sum(1) / (cost * w.double().square()).sum(1)


@pytest.mark.parametrize("channels", [1, 2, 4, 0])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_values_are_the_nearest_of_the_bytes_times_the_scale(bits: int, channels: int) -> None:
    w = weight()
    codebook = WeightCodebook(bits, channels=channels).fit(w)
    assert codebook.table.dtype == torch.int8
    assert codebook.table.shape == ({1: 6, 2: 3, 4: 2, 0: 1}[channels], 2**bits)
    codes = codebook.encode(w)
    assert codes.dtype == torch.uint8
    assert int(codes.max()) < 2**bits
    for channel in range(6):
        levels = codebook.table[channel // (channels or 6)].float() * codebook.scale[channel]
        distance = (w[channel][:, None] - levels).abs()
        chosen = (w[channel] - codebook(w)[channel]).abs()
        torch.testing.assert_close(chosen, distance.amin(1))
        assert torch.equal(codebook.decode(codes)[channel], levels[codes[channel].long()])
    uniform = Uniform(bits, signed=True, axis=0, percentiles=(0.99, 1.0)).fit(w)
    total, of_uniform = ((quantizer(w) - w).square().sum() for quantizer in (codebook, uniform))
    assert total < of_uniform
    if channels == 1:
        assert (error(codebook, w) < error(uniform, w)).all()


def test_fitting_is_close_to_the_best_of_many_starts_of_k_means() -> None:
    w = weight(outputs=1)
    codebook = WeightCodebook(2).fit(w)
    x, best = w[0].double(), torch.inf
    for seed in range(50):
        levels = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:4]]
        for _ in range(30):
            nearest = (x[:, None] - levels).abs().argmin(1)
            levels = torch.stack([x[nearest == i].mean() if (nearest == i).any() else levels[i] for i in range(4)])
        best = min(best, float((x[:, None] - levels).abs().amin(1).square().sum() / x.square().sum()))
    assert float(error(codebook, w)) < 1.03 * best  # histograms, and levels rounded to bytes


def test_costs_draw_levels_to_the_weights_that_matter() -> None:
    w, cost = weight(), torch.ones(200)
    cost[:10] = 1000
    plain, weighted = WeightCodebook(2).fit(w), WeightCodebook(2).fit(w, cost)
    assert (error(weighted, w, cost) < error(plain, w, cost)).all()
    assert (error(weighted, w) > error(plain, w)).any()


def test_a_channel_of_zeros_stays_zero() -> None:
    w = weight()
    w[2] = 0
    for channels in (1, 3):
        codebook = WeightCodebook(3, channels=channels).fit(w)
        assert codebook(w).isfinite().all()
        assert codebook(w)[2].abs().max() <= 1e-6 + (0 if channels == 1 else 1)
        assert (codebook.scale > 0).all()


def test_the_gradient_is_one_and_convolutions_have_rows_too() -> None:
    w = weight(inputs=12).reshape(6, 3, 2, 2).requires_grad_()
    codebook = WeightCodebook(2).fit(w.detach())
    codebook(w).sum().backward()
    assert (w.grad == 1).all()
    assert torch.equal(codebook(w).flatten(1), codebook(w.flatten(1)))
    codebook.enabled = False
    assert torch.equal(codebook(w), w)


@pytest.mark.parametrize(("channels", "part"), [(1, slice(2, 5)), (3, slice(3, 7)), (3, slice(0, 6)), (0, slice(0, 7))])
def test_some_rows_are_quantized_as_among_all(channels: int, part: slice) -> None:
    weight = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    codebook = WeightCodebook(2, channels=channels).fit(weight)
    assert torch.equal(codebook.rows(part)(weight[part]), codebook(weight)[part])
    if channels:
        assert torch.equal(WeightCodebook(2, channels=channels).fit(weight[part]).table, codebook.rows(part).table)
