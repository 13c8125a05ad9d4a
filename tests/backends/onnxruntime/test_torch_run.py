from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime.torch_run import TorchRun, size
from qpass.backends.onnxruntime.uncertainty import OwnError
from qpass.data import ModelInputs
from qpass.quantizers import Uniform


def test_codes_and_outputs_are_the_graphs(quantized: fx.GraphModule, images: Tensor) -> None:
    run = TorchRun(quantized, ModelInputs((images,), {}))
    assert torch.equal(torch.from_numpy(run.outputs[0]), quantized(images))
    assert size(run.outputs[0]) == pytest.approx(torch.linalg.vector_norm(quantized(images).double()).item())
    for name, quantizer in run.quantizers.items():
        assert quantizer is quantized.get_submodule(name)
        assert torch.equal(quantizer.encode(run.inputs[name]), run.codes[name])


def test_exact_inputs_are_float64_from_the_same_codes(quantized: fx.GraphModule, images: Tensor) -> None:
    run = TorchRun(quantized, ModelInputs((images,), {}))
    for name, x in run.inputs.items():
        exact = run.exact[name]
        assert exact.dtype == torch.float64
        assert (x - exact).abs().max() <= 1e-5 * exact.abs().max(), "no code has flipped before it"
    assert any((x != run.exact[name]).any() for name, x in run.inputs.items()), "and it is not float32 again"


def test_ties_that_fall_together_count() -> None:
    x = torch.full((1, 64), 2.5)
    x[0, 0] = 127.0
    model = nn.Linear(64, 1, bias=False)
    nn.init.ones_(model.weight)
    graph = qpass.quantize_graph(model, [x, -x], "w8a8", progress=False)
    inputs = ModelInputs((x,), {})
    (quantizer,) = TorchRun(graph, inputs).quantizers.values()
    assert isinstance(quantizer, Uniform)
    quantizer.scale.fill_(1.0)
    quantizer.zero_point.zero_()
    outputs = TorchRun(graph, inputs).outputs
    # Half to even takes all of them to 2; moved up together they are 3, where random moves take about half of them.
    (own,) = OwnError(graph, inputs, outputs, tie=2e-6).outputs
    assert own.distance == pytest.approx(63, rel=1e-5)
