"""Tensors of products are quantized before they are moved, those of Linears as they are read."""

from __future__ import annotations

import torch
from torch import fx, nn

from qpass.config import QuantConfig
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, is_call
from qpass.passes import Annotate, Canonicalize
from qpass.passes.analysis.sources import planned_operands, quantization_point, quantizer_node
from qpass.quantizers import Quantizer
from tests.models import MaskedAttention


def test_movements_come_behind_the_quantizer_of_a_product_and_before_that_of_a_linear() -> None:
    graph = trace(MaskedAttention().eval(), (torch.randn(2, 5, 16),))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any("w8a8"))(graph)
    points = [(plan.kind, plan.path, quantization_point(*each)) for each in planned_operands(graph) for plan in each[1:2]]
    products = [point for kind, _, point in points if kind == "matmul"]
    assert [point.target for point in products] == [
        aten.linear.default,  # queries, though their heads are transposed
        aten.linear.default,
        aten.softmax.int,
        aten.linear.default,
    ]
    last = next(point for _, path, point in points if path == "out")
    assert not is_call(last, aten.matmul.default), "heads are merged first"


def test_the_quantizer_of_an_operand_is_found_through_movements(quantized: fx.GraphModule) -> None:
    found = 0
    for node in graph_products(quantized):
        for operand in node.args[:2]:
            module = quantized.get_submodule(str(quantizer_node(operand).target))
            assert isinstance(module, Quantizer)
            found += 1
    assert found == 8, "two products of two operands in each of two blocks"


def graph_products(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if is_call(node, aten.matmul.default)]


def test_nothing_is_planned_in_a_graph_without_plans() -> None:
    assert planned_operands(trace(nn.Linear(3, 3).eval(), (torch.ones(2, 3),))) == []
