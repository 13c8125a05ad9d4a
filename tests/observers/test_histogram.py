from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass.errors import CalibrationError
from qpass.observers import HistogramObserver


def observed(batches: list[torch.Tensor], **options: object) -> HistogramObserver:
    observer = HistogramObserver("tensor", **options)
    for batch in batches:
        observer.update(batch)
    return observer


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999), cuts=st.lists(st.integers(1, 299), max_size=6), spread=st.floats(-8, 8), shift=st.floats(-50, 50)
)
def test_counts_depend_on_the_data_and_not_on_the_batches(seed: int, cuts: list[int], spread: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(300, generator=generator) ** 3 * 10**spread + shift
    pieces = [x[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), 300], strict=True)]
    whole, parts = observed([x], bins=64), observed(pieces[::-1], bins=64)
    for one, other in zip(whole.samples(), parts.samples(), strict=True):
        assert torch.equal(one, other)


def test_counts_equal_numpys() -> None:
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    observer = observed(list(x.split(1000)), bins=256)
    centres, counts = observer.samples()
    width = centres[0, 5] - centres[0, 4]
    assert counts.sum() == 10_000
    edges = np.append((centres[0] - width / 2).numpy(), (centres[0, -1] + width / 2).item())
    edges[0], edges[1:-1] = -np.inf, np.round(edges[1:-1] / width.item()) * width.item()
    edges[-1] = np.inf
    np.testing.assert_array_equal(counts[0].numpy(), np.histogram(x.double().numpy(), edges)[0])


def test_a_sample_lies_within_a_bin_of_its_value_and_the_ends_are_exact() -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 7
    centres, counts = observed([x], bins=512).samples()
    repeated = centres[0].repeat_interleave(counts[0])
    assert (repeated - x.double().sort().values).abs().max() <= (x.max() - x.min()) / 255
    assert repeated[0] == x.min().double()
    assert repeated[-1] == x.max().double()


def test_channels_have_histograms_of_their_own() -> None:
    x = torch.randn(10, 50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 1e3])
    centres, counts = observed(list(x), channel_axis=-1, bins=128).samples()
    assert counts.sum(1).tolist() == [500, 500, 500]
    alone, _ = observed([x[..., 2]], bins=128).samples()
    assert centres[2].max() == alone.max()


@pytest.mark.parametrize("value", [0.0, 3.25, -1e-20, 1e20])
def test_a_constant_is_one_bin(value: float) -> None:
    centres, counts = observed([torch.full((7,), value)] * 2).samples()
    assert centres[counts > 0].tolist() == pytest.approx([value])
    assert counts.sum() == 14


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(value: float) -> None:
    with pytest.raises(CalibrationError, match=r"blocks\.3: NaN or infinite values"):
        HistogramObserver("blocks.3").update(torch.tensor([1.0, value]))


def test_no_data_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"blocks\.3: no value was recorded"):
        HistogramObserver("blocks.3").samples()
