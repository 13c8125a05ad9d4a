from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.passes import Annotate, Calibrate, Canonicalize, InsertQuantizers, RefitQuantizers
from qpass.passes.analysis.statistics import Statistics
from qpass.quantizers import Uniform


def quantized(model: nn.Module, batches: list[ModelInputs], config: object) -> fx.GraphModule:
    graph, statistics = trace(model, batches[0].args), Statistics()
    for step in (
        Canonicalize(),
        Annotate(QuantConfig.from_any(config)),
        Calibrate(batches, statistics, per_channel=True),
        InsertQuantizers(statistics),
    ):
        step(graph)
    return graph


def test_each_quantizer_is_fitted_to_what_reaches_it_in_the_refitted_network(vit: nn.Module, images: Tensor) -> None:
    """Fitting any of them once more on its real input, in the finished network, gives what it has."""
    batches = [ModelInputs((part,), {}) for part in images.split(4)]
    graph = quantized(vit, batches, "mixed-w4a5")
    before = copy.deepcopy(graph.state_dict())
    RefitQuantizers(batches, Statistics())(graph)
    checked = moved = 0
    for node in graph.graph.nodes:
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Uniform) and module.axis is None and "softmax" not in str(node.target):
            x = torch.cat([input_of(graph, node, batch) for batch in batches])
            again = copy.deepcopy(module).fit(x)
            # Percentiles are read off a histogram there and off the samples here.
            torch.testing.assert_close(module.scale, again.scale, rtol=2e-2, atol=0)
            moved += not torch.equal(module.scale, before[f"{node.target}.scale"])
            checked += 1
    assert checked > 5
    assert moved > checked // 2


def test_a_softmax_is_fitted_to_the_product_with_the_quantized_values(vit: nn.Module, images: Tensor) -> None:
    batches = [ModelInputs((images,), {})]
    graph = quantized(vit, batches, {"preset": "mixed-w4a5", "post_softmax": {"bits": 4}})
    RefitQuantizers(batches, Statistics())(graph)
    nodes = [node for node in graph.graph.nodes if node.op == "call_module" and "softmax" in str(node.target)]
    assert nodes
    for node in nodes:
        (matmul,) = node.users
        attention, values = input_of(graph, node, batches[0]), output_of(graph, matmul.args[1], batches[0])
        fitted = graph.get_submodule(str(node.target))
        assert isinstance(fitted, Uniform)

        def error(quantizer: Uniform, a: Tensor = attention, v: Tensor = values) -> float:
            return ((quantizer(a) - a) @ v).double().square().sum().item()

        own_error = copy.deepcopy(fitted).fit(attention)
        assert error(fitted) <= error(own_error) * 1.001
        assert error(fitted) < error(copy.deepcopy(fitted).set_parameters(fitted.scale * 2, fitted.zero_point))


def input_of(graph: fx.GraphModule, node: fx.Node, batch: ModelInputs) -> Tensor:
    return output_of(graph, node.args[0], batch)


def output_of(graph: fx.GraphModule, node: object, batch: ModelInputs) -> Tensor:
    run = fx.Interpreter(graph, garbage_collect_values=False)
    run.run(*batch.args)
    result = run.env[node]
    assert isinstance(result, Tensor)
    return result


class FactoredAttention(nn.Module):
    """Keys are normalised over tokens, and meet the values transposed, as in CoaT."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = nn.Linear(12, 6), nn.Linear(12, 6), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        context = self.key(x).softmax(1).transpose(-1, -2) @ self.value(x)
        return self.query(x) @ context


def test_a_softmax_that_is_transposed_before_the_product_is_fitted_to_that_product() -> None:
    batches = [ModelInputs((torch.randn(4, 20, 12, generator=torch.Generator().manual_seed(1)),), {})]
    graph = quantized(FactoredAttention().eval(), batches, "mixed-w4a5")
    RefitQuantizers(batches, Statistics())(graph)
    (node,) = (node for node in graph.graph.nodes if node.op == "call_module" and "softmax" in str(node.target))
    (matmul,) = next(iter(node.users)).users
    keys, values = input_of(graph, node, batches[0]), output_of(graph, matmul.args[1], batches[0])
    fitted = graph.get_submodule(str(node.target))

    def error(quantizer: Uniform) -> float:
        return ((quantizer(keys) - keys).transpose(-1, -2) @ values).double().square().sum().item()

    plain = Uniform(4, percentiles=(1.0,)).fit(keys)
    assert error(fitted) <= error(plain) * (1 + 1e-6)
