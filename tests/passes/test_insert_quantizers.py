"""The plan becomes modules: one quantizer for each tensor, however many read it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.nn import QuantizedConv, QuantizedLayer
from qpass.passes import Annotate, Calibrate, Canonicalize, InsertQuantizers
from qpass.passes.analysis.sources import quantizer_node
from qpass.passes.analysis.statistics import Statistics
from qpass.quantizers import Quantizer, Uniform
from tests.models import MaskedAttention, small_vit


def inserted(model: nn.Module, x: Tensor, recipe: str = "repq-vit-w4a4", *, per_channel: bool = False) -> fx.GraphModule:
    graph, statistics = trace(model.eval(), (x,)), Statistics()
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any(recipe))(graph)
    Calibrate([ModelInputs((x,), {})], statistics, per_channel=per_channel)(graph)
    InsertQuantizers(statistics)(graph)
    return graph


def quantizers_of(graph: fx.GraphModule) -> list[fx.Node]:
    return [n for n in graph.graph.nodes if n.op == "call_module" and isinstance(graph.get_submodule(str(n.target)), Quantizer)]


def test_readers_of_one_tensor_share_its_quantizer() -> None:
    torch.manual_seed(0)
    graph = inserted(MaskedAttention(), torch.randn(4, 5, 16))
    layers = [
        n for n in graph.graph.nodes if n.op == "call_module" and isinstance(graph.get_submodule(str(n.target)), QuantizedLayer)
    ]
    query, key, value, out = layers
    assert query.args == key.args == value.args
    assert out.args != query.args
    assert len(quantizers_of(graph)) == 1 + 4 + 1, "the input, the factors of two products, and the last input"


def test_movements_of_a_product_are_of_quantized_tensors() -> None:
    torch.manual_seed(0)
    graph = inserted(MaskedAttention(), torch.randn(4, 5, 16))
    for product in calls(graph, aten.matmul.default):
        for operand in product.args[:2]:
            node = quantizer_node(operand)
            assert not any(each.target in (aten.transpose.int, aten.permute.default) for each in node.all_input_nodes)


def test_with_its_quantizers_off_the_network_is_the_model(vit: nn.Module, images: Tensor) -> None:
    graph = inserted(small_vit(), images)
    assert isinstance(next(m for m in graph.modules() if isinstance(m, QuantizedLayer)), QuantizedConv)
    for module in graph.modules():
        if isinstance(module, Quantizer):
            module.enabled = False
    torch.testing.assert_close(graph(images), vit(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_norm_has_scales_for_its_channels_if_they_were_observed(per_channel: bool, images: Tensor) -> None:
    graph = inserted(small_vit(depth=1), images, per_channel=per_channel)
    axes = [
        graph.get_submodule(str(node.target)).axis
        for node in quantizers_of(graph)
        if "layer_norm" in node.all_input_nodes[0].name
    ]
    assert axes
    assert all((axis is not None) == per_channel for axis in axes)


def test_weights_are_fitted_to_themselves() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(8, 4)
    graph = inserted(nn.Sequential(linear), torch.randn(16, 8))
    (layer,) = [module for module in graph.modules() if isinstance(module, QuantizedLayer)]
    assert isinstance(layer.quantizer, Uniform)
    weight = linear.weight.detach()
    assert torch.equal(layer.effective_weight(), weight)
    assert (layer.quantized_weight() - weight).abs().amax(1).le(layer.quantizer.scale.flatten()).all(), (
        "clipped by a step at most"
    )
