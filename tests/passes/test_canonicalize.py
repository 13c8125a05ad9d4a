"""All rules together, rules that never come to rest, and rules that record what is not so."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, fx, nn

import qpass.passes.canonicalize as module
from qpass.errors import PassError
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls, record_shapes
from qpass.passes import Canonicalize
from qpass.passes.canonicalize import check_results


def test_all_rules_together_come_to_rest_and_keep_the_numbers(vit: nn.Module, images: Tensor) -> None:
    graph = trace(vit, (images,))
    expected = vit(images)
    assert Canonicalize()(graph) is True
    torch.testing.assert_close(graph(images), expected, rtol=1e-5, atol=1e-5)
    gone = (aten.dropout.default, aten.scaled_dot_product_attention.default, aten.unbind.int)
    assert not list(calls(graph, *gone))


def test_rules_that_do_not_come_to_rest_are_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def restless(graph_module: fx.GraphModule) -> int:
        return 1

    assert isinstance(module, ModuleType)
    monkeypatch.setattr(module, "RULES", (restless,))
    with pytest.raises(PassError, match=rf"canonicalization does not converge: \['{__name__}'\]"):
        Canonicalize()(trace(nn.Linear(3, 2).eval(), (torch.ones(2, 3),)))


@pytest.mark.parametrize(("key", "value"), [("shape", (9,)), ("dtype", torch.int8)])
def test_a_record_that_is_wrong_is_a_bug(key: str, value: object) -> None:
    graph = trace(nn.Linear(3, 2).eval(), (torch.ones(2, 3),))
    record_shapes(graph)
    check_results(graph, ["a rule"])
    next(calls(graph, aten.linear.default)).meta[key] = value
    with pytest.raises(PassError, match=r"linear.*\['a rule'\]: a rule recorded shape .* expected shape \(2, 2\)"):
        check_results(graph, ["a rule"])
