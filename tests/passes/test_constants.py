"""Which nodes do not depend on an input, and their values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.passes.constants import constant_nodes, constant_value


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(6.0).reshape(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.table.exp() + 1) + torch.rand_like(self.table)


def test_what_depends_on_stored_tensors_alone_is_constant() -> None:
    graph = trace(Mixed().eval(), (torch.ones(2, 3),))
    exp, add = next(calls(graph, aten.exp.default)), next(calls(graph, aten.add.Tensor))
    random = next(node for node in graph.graph.nodes if "rand" in str(node.target))
    product = next(calls(graph, aten.mul.Tensor))
    constants = constant_nodes(graph)
    assert {exp, add} <= constants
    assert not {random, product, *(node for node in graph.graph.nodes if node.op == "placeholder")} & constants
    value = constant_value(graph, add)
    assert value is not None
    torch.testing.assert_close(value, torch.arange(6.0).reshape(2, 3).exp() + 1)
    assert constant_value(graph, product) is None
    assert constant_value(graph, random) is None
