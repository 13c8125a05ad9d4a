"""Quantizers from specs and statistics, and what a second fit writes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from qpass.config import QuantSpec
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.observers import HistogramObserver
from qpass.passes.analysis.fitted import channel_quantizer, fit_again, tensor_quantizer, weight_quantizer
from qpass.passes.analysis.statistics import Statistics
from qpass.quantizers import Uniform

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2, 3, 4, 5, 6])


def test_a_second_fit_writes_only_what_changes() -> None:
    quantizer = Uniform(4).fit(X)
    scale, version = quantizer.scale, quantizer.scale._version
    assert fit_again(quantizer, lambda q: q.fit(X)) is False
    assert quantizer.scale is scale
    assert scale._version == version
    assert fit_again(quantizer, lambda q: q.fit(2 * X)) is True
    assert torch.equal(quantizer.scale, Uniform(4).fit(2 * X).scale)


def test_a_weight_has_a_scale_for_each_output_channel() -> None:
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * torch.arange(1.0, 6).view(5, 1, 1, 1)
    quantizer = weight_quantizer(weight, QuantSpec(bits=8, symmetric=True, percentiles=(1.0,)))
    greatest = weight.flatten(1).abs().amax(1).numpy()
    np.testing.assert_allclose(quantizer.scale.flatten().numpy(), greatest / 127.5, rtol=0.01)


def observed(channel_axis: int | None) -> HistogramObserver:
    observer = HistogramObserver("x", channel_axis=channel_axis)
    observer.update(X)
    return observer


def test_a_tensor_is_fitted_to_its_statistics_and_starts_where_saturation_clips() -> None:
    """Behind a GELU, which is bounded below, the greatest code is 255."""
    graph = trace(nn.Sequential(nn.Tanh(), nn.GELU()).eval(), (X,))
    tanh, gelu = next(calls(graph, aten.tanh.default)), next(calls(graph, aten.gelu.default))
    statistics, spec = Statistics(tensors={tanh: observed(None), gelu: observed(None)}), QuantSpec(bits=4)
    plain, last = (tensor_quantizer(graph, statistics, node, spec, signed=False) for node in (tanh, gelu))
    assert (plain.code_min, plain.code_max) == (0, 15)
    assert (last.code_min, last.code_max) == (240, 255)
    exact = Uniform(4, percentiles=spec.percentiles).fit(X)
    assert torch.allclose(plain.scale, exact.scale, rtol=1e-2)  # type: ignore[arg-type]


def test_a_norm_has_a_scale_and_a_zero_point_for_each_channel() -> None:
    graph = trace(nn.Tanh().eval(), (X,))
    tanh = next(calls(graph, aten.tanh.default))
    quantizer = channel_quantizer(graph, Statistics(channels={tanh: observed(-1)}), tanh, QuantSpec(bits=8))
    spread = (X.amax(0) - X.amin(0)).numpy()
    np.testing.assert_allclose(quantizer.scale.flatten().numpy(), spread / 255, rtol=0.03)
