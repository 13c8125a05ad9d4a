"""onnx's own node tests of the operators in our files: an evaluator that fails them could agree with a wrong file."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.contracts.onnx_node_tests import in_evaluator, in_onnxruntime, node_tests, outcome

OPERATORS = {"QuantizeLinear", "DequantizeLinear", "QLinearMatMul", "MatMulInteger"}


@pytest.mark.slow
@pytest.mark.parametrize("run", [in_evaluator, in_onnxruntime])
def test_every_node_test_passes(run: Callable[..., object]) -> None:
    tests = node_tests()  # not at collection: onnx computes all of its tests first, which takes seconds
    assert {node.op_type for test in tests.values() for node in test.model.graph.node} >= OPERATORS
    failed = {name: what for name, test in tests.items() if (what := outcome(test, run)) != "yes"}
    assert not failed
