"""Every node that a rule makes carries the shape and the dtype that it has, also within the round that made it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.errors import PassError
from qpass.graph.capture.trace import trace
from qpass.graph.edit import add_constant, aten, call_like, calls, dtype_of, replace, shape_of
from qpass.graph.fx_rule import fx_rule
from qpass.passes import Canonicalize
from qpass.passes.rules import RULES


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.shape[0]


def test_new_nodes_know_what_they_give() -> None:
    graph = trace(Sum(), (torch.zeros(2, 3),))
    (add,) = calls(graph, aten.add.Tensor)
    constant = add_constant(graph, "limit", torch.tensor([1, 2, 3]), add)
    size = call_like(graph, add, aten.sym_size.int, add.args[0], 1)
    rows = call_like(graph, add, aten.unsqueeze.default, call_like(graph, add, aten.arange.default, size), -1)
    mask = call_like(graph, add, aten.gt.Tensor, rows, constant)
    assert (shape_of(constant), dtype_of(constant)) == ((3,), torch.int64)
    assert (shape_of(mask), dtype_of(mask)) == ((3, 3), torch.bool)


def test_a_replacement_of_another_shape_or_dtype_is_refused() -> None:
    graph = trace(Sum(), (torch.zeros(2, 3),))
    (add,) = calls(graph, aten.add.Tensor)
    for wrong in (
        call_like(graph, add, aten.unsqueeze.default, add.args[0], 0),
        call_like(graph, add, aten.isnan.default, add.args[0]),
    ):
        with pytest.raises(PassError, match="its replacement"):
            replace(add, wrong)


@pytest.mark.parametrize("key", ["shape", "dtype"])
def test_a_rule_that_says_nothing_of_its_nodes_is_named(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @fx_rule(aten.add.Tensor)
    def silent(graph_module: fx.GraphModule, add: fx.Node) -> fx.Node | None:
        if "seen" in add.meta:
            return None
        new = call_like(graph_module, add, aten.add.Tensor, *add.args)
        new.meta["seen"] = True
        del new.meta[key]
        return new

    monkeypatch.setattr("qpass.passes.canonicalize.RULES", (*RULES, silent))
    with pytest.raises(PassError, match=r"add_tensor.*silent.*a rule recorded .*None"):
        Canonicalize()(trace(Sum(), (torch.zeros(2, 3),)))
