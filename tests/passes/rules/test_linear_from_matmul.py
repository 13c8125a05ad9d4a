"""A product with a constant matrix becomes a Linear."""

from __future__ import annotations

import torch

from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, finish
from qpass.passes import Canonicalize
from qpass.passes.rules.linear_from_matmul import bias_from_add, linear_from_addmm, linear_from_matmul
from tests.passes.rules.rule_case import Call, apply, count, seeded


def test_matmul_then_add() -> None:
    model = Call(lambda m, x: x @ m.w + m.b, w=seeded(4, 6), b=seeded(6))
    graph, done = apply(linear_from_matmul, model, seeded(2, 3, 4))
    assert done == 1
    assert bias_from_add.apply(graph).count == 1
    finish(graph)
    assert count(graph, aten.linear.default) == 1
    assert count(graph, aten.matmul.default, aten.add.Tensor) == 0
    torch.testing.assert_close(graph(seeded(2, 3, 4)), model(seeded(2, 3, 4)), rtol=1e-5, atol=1e-5)


def test_a_bias_that_is_computed_after_the_product() -> None:
    model = Call(lambda m, x: x @ m.w + m.b * 2, w=seeded(4, 6), b=seeded(6))
    graph = trace(model.eval(), (seeded(2, 3, 4),))
    Canonicalize()(graph)
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [aten.linear.default]
    torch.testing.assert_close(graph(seeded(2, 3, 4)), model(seeded(2, 3, 4)), rtol=1e-5, atol=1e-5)


def test_addmm() -> None:
    model = Call(lambda m, x: torch.addmm(m.b, x, m.w), w=seeded(4, 6), b=seeded(6))
    graph, done = apply(linear_from_addmm, model, seeded(3, 4))
    assert done == 1
    assert count(graph, aten.linear.default) == 1


def test_a_bias_of_another_shape_and_two_activations_stay() -> None:
    graph, done = apply(linear_from_matmul, Call(lambda m, x: x @ m.w + m.b, w=seeded(4, 6), b=seeded(3, 6)), seeded(2, 3, 4))
    assert done == 1
    (near,) = bias_from_add.apply(graph).declined
    assert near.reason == "what is added to its product has shape (3, 6), and a bias (6,)"
    assert count(graph, aten.add.Tensor) == 1
    _, done = apply(linear_from_matmul, Call(lambda m, x: x @ x.mT), seeded(2, 3, 4))
    assert done == 0
