"""Estimates put tensors in the order of the errors that are measured when one alone is quantized."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, fx, nn

import qpass
from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import called_module, get_plan
from qpass.nn import QuantizedLayer
from qpass.passes import AllocateBits
from qpass.passes.analysis.reference import float_reference
from qpass.passes.analysis.sources import planned_operands, quantizer_node
from qpass.passes.analysis.tensor_sensitivity import Sensitivity, measure_sensitivity
from qpass.passes.plan import LayerPlan
from qpass.quantizers import Quantizer


def measured(model: nn.Module, x: Tensor, recipe: str) -> tuple[fx.GraphModule, Sensitivity]:
    """Returns the graph before bit widths are chosen, and the estimates."""
    graph = trace(model, (x[:2],))
    for step in pipeline(QuantConfig.from_any(recipe), [ModelInputs((x,), {})]):
        if isinstance(step, AllocateBits):
            return graph, measure_sensitivity(graph, step.statistics, step.batches)
        step(graph)
    raise AssertionError


@pytest.fixture(scope="module")
def narrow(vit: nn.Module, images: Tensor) -> tuple[fx.GraphModule, Sensitivity]:
    return measured(vit, images, "w4a4")


def quantizers_of(graph: fx.GraphModule) -> dict[tuple[str, str], list[str]]:
    """Returns the names of the quantizers of each (module path, role), read from the plans."""
    found: dict[tuple[str, str], list[str]] = {}
    for node, plan, operand in planned_operands(graph):
        found.setdefault((plan.path, operand.role), []).append(str(quantizer_node(node.args[operand.index]).target))
    for node in graph.graph.nodes:
        plan, layer = get_plan(node), called_module(graph, node)
        if isinstance(plan, LayerPlan) and isinstance(layer, QuantizedLayer) and layer.quantizer is not None:
            found.setdefault((plan.path, "weight"), []).append(f"{node.target}.quantizer")
    return found


def test_the_order_is_that_of_the_errors_with_one_tensor_quantized(
    narrow: tuple[fx.GraphModule, Sensitivity], images: Tensor
) -> None:
    graph, found = narrow
    alone, names = float_reference(graph), quantizers_of(graph)
    with torch.no_grad():
        expected = alone(images)
        errors = []
        for tensor in found.tensors:
            used = [alone.get_submodule(name) for member in tensor.members for name in names[member]]
            for quantizer in used:
                assert isinstance(quantizer, Quantizer)
                quantizer.enabled = True
            errors.append(((alone(images) - expected).square().sum() / expected.square().sum()).item())
            for quantizer in used:
                quantizer.enabled = False
    estimates = [tensor.error for tensor in found.tensors]
    assert spearmanr(estimates, errors).statistic > 0.9
    assert sum(estimates) == pytest.approx(sum(errors), rel=0.5)
    assert {member for tensor in found.tensors for member in tensor.members} == set(names)


def test_a_tensor_is_what_rules_can_address(narrow: tuple[fx.GraphModule, Sensitivity]) -> None:
    _, found = narrow
    members = [member for tensor in found.tensors for member in tensor.members]
    assert len(members) == len(set(members)), "each in one tensor"
    rows = {tensor.members[0]: tensor for tensor in found.tensors}
    assert rows["patch_embed.proj", "activation"].changes == {}, "the network's input has 8 bits"
    assert list(rows["patch_embed.proj", "activation"].errors) == [8]
    assert rows["blocks.0.attn", "activation"].changes == {8: {"bits": 8}}
    assert rows["blocks.0.attn", "post_softmax"].changes[8] == {"bits": 8, "quantizer": "uniform", "tabulated": False}
    weight = rows["blocks.1.mlp.fc1", "weight"]
    assert list(weight.errors) == [4, 5, 6, 8]
    assert weight.changes[8] == {"bits": 8, "symmetric": True}
    assert weight.size == 48 * 96
    assert sorted(weight.errors.values(), reverse=True) == list(weight.errors.values())
    assert found.multiply_adds["blocks.1.mlp.fc1"] == 2 * 17 * 48 * 96
    assert found.multiply_adds["blocks.1.attn"] == 2 * 2 * 3 * 17 * 17 * 16


def test_layers_that_share_a_quantizer_are_one_tensor() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.one, self.two = nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return self.one(y) * self.two(y)

    torch.manual_seed(0)
    _, found = measured(Shared().eval(), torch.randn(16, 5, 8), "w4a4")
    assert [tensor.members for tensor in found.tensors] == [
        (("one", "activation"), ("two", "activation")),
        (("one", "weight"),),
        (("two", "weight"),),
    ]


@pytest.mark.nightly
def test_the_order_is_that_of_whole_runs_with_one_tensor_quantized(vit: nn.Module, images: Tensor) -> None:
    """By the public functions alone: everything else is left in float by a rule."""
    recipe = QuantConfig.from_any("repq-vit-w4a4")
    report = qpass.sensitivity_report(vit, [images], recipe, progress=False)
    errors = []
    with torch.no_grad():
        expected = vit(images)
        for tensor in report.tensors:
            config = recipe.with_rules({"*": None}, *({path: {role: {}}} for path, role in tensor.members))
            graph = qpass.quantize_graph(vit, [images], config, progress=False)
            errors.append(((graph(images) - expected).square().sum() / expected.square().sum()).item())
    assert spearmanr([tensor.error for tensor in report.tensors], errors).statistic > 0.9
