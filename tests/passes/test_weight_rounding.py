"""Weights stay float while their rounding is suspended, and are fitted again when it resumes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.nn import QuantizedLayer
from qpass.passes import Freeze, ResumeWeightRounding, SuspendWeightRounding


def fitted(model: nn.Module, x: Tensor) -> fx.GraphModule:
    graph = trace(model, (x,))
    for step in pipeline(QuantConfig.from_any("repq-vit-w4a4"), [ModelInputs((x,), {})]):
        if isinstance(step, Freeze):
            return graph
        step(graph)
    raise AssertionError("the last pass freezes")


def test_weights_are_float_until_rounding_resumes() -> None:
    torch.manual_seed(0)
    graph = fitted(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval(), torch.randn(32, 8))
    layers = [module for module in graph.modules() if isinstance(module, QuantizedLayer)]
    assert SuspendWeightRounding().run(graph) is False
    for layer in layers:
        assert torch.equal(layer.quantized_weight(), layer.effective_weight())
    assert ResumeWeightRounding().run(graph) is False, "the weights are those that their quantizers were fitted to"
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(3)  # type: ignore[union-attr]
    assert SuspendWeightRounding().run(graph) is False
    assert ResumeWeightRounding().run(graph) is True
    for layer in layers:
        assert layer.quantizer is not None
        assert layer.quantizer.enabled
        weight = layer.effective_weight().detach()
        expected = copy.deepcopy(layer.quantizer).fit(weight.flatten(1))(weight.flatten(1))
        assert torch.equal(layer.quantized_weight().flatten(1), expected)
        assert not torch.equal(layer.quantized_weight(), weight)
