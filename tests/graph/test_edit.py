"""Helpers that every pass edits graphs with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.errors import PassError
from qpass.graph.capture.trace import trace
from qpass.graph.edit import (
    add_constant,
    add_module,
    ancestors,
    argument,
    aten,
    call_like,
    calls,
    copy_tensors,
    describe,
    device_of,
    dtype_of,
    finish,
    flat_inputs,
    get_constant,
    input_list,
    input_node,
    is_inside,
    is_open,
    module_path,
    ordered_inputs,
    record_shapes,
    replace,
    shape_of,
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.GELU())
        self.register_buffer("unused", torch.zeros(3))

    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        return self.inner(x).reshape(x.shape[0], 2, 3) * scale


@pytest.fixture
def graph() -> fx.GraphModule:
    traced = trace(Model().eval(), (torch.randn(3, 4),), {"scale": torch.tensor(2.0)})
    record_shapes(traced)
    return traced


def test_a_call_is_made_like_another(graph: fx.GraphModule) -> None:
    """At its place, with its module path; shape and dtype are inferred."""
    gelu, x = next(calls(graph, aten.gelu.default)), torch.randn(5, 4)
    expected = graph(x, scale=torch.tensor(1.0))
    cosine = call_like(graph, gelu, aten.cos.default, gelu.args[0])
    assert (module_path(cosine), shape_of(cosine), dtype_of(cosine)) == ("inner.1", shape_of(gelu), torch.float32)
    assert describe(cosine) == f"inner.1 ({cosine.name})"
    replace(gelu, cosine)
    finish(graph)
    inner = nn.functional.linear(x, graph.get_parameter("inner.0.weight"), graph.get_parameter("inner.0.bias"))
    torch.testing.assert_close(graph(x, scale=torch.tensor(1.0)), inner.cos().reshape(5, 2, 3))
    assert not torch.equal(expected, inner.cos().reshape(5, 2, 3))


@pytest.mark.parametrize(("target", "wrong"), [(aten.sum.default, "shape"), (aten.isnan.default, "dtype")])
def test_a_replacement_of_another_shape_or_dtype_is_a_bug(graph: fx.GraphModule, target: object, wrong: str) -> None:
    gelu = next(calls(graph, aten.gelu.default))
    other = call_like(graph, gelu, target, gelu.args[0])  # type: ignore[arg-type]
    with pytest.raises(PassError, match=rf"inner\.1 \({gelu.name}\): its replacement {other.name} has {wrong}"):
        replace(gelu, other)


def test_names_are_free_and_valid(graph: fx.GraphModule) -> None:
    assert [add_module(graph, "a.b", nn.Identity()) for _ in range(3)] == ["a_b", "a_b_1", "a_b_2"]
    gelu = next(calls(graph, aten.gelu.default))
    constants = [add_constant(graph, "a.b", torch.ones(2), gelu) for _ in range(2)]
    assert [node.target for node in constants] == ["a_b_3", "a_b_4"]
    assert shape_of(constants[0]) == (2,)


def test_a_constant_is_a_copy(graph: fx.GraphModule) -> None:
    value = torch.ones(2)
    node = add_constant(graph, "value", value, next(calls(graph, aten.gelu.default)))
    value.zero_()
    found = get_constant(graph, node)
    assert found is not None
    assert found.tolist() == [1, 1]
    assert get_constant(graph, next(calls(graph, aten.gelu.default))) is None
    assert get_constant(graph, 3) is None


def test_what_no_node_reads_is_removed(graph: fx.GraphModule) -> None:
    name = add_module(graph, "spare", nn.Linear(2, 2))
    add_constant(graph, "dead", torch.ones(2), next(calls(graph, aten.gelu.default)))
    finish(graph)
    assert set(graph.state_dict()) == {"inner.0.weight", "inner.0.bias"}
    assert not hasattr(graph, name)


def test_a_module_that_is_called_keeps_all_that_it_holds(graph: fx.GraphModule) -> None:
    gelu = next(calls(graph, aten.gelu.default))
    held = nn.Sequential(nn.Linear(6, 6))
    name = add_module(graph, "held", held)
    with graph.graph.inserting_before(gelu):
        gelu.args = (graph.graph.call_module(name, (gelu.args[0],)),)
    finish(graph)
    assert {f"{name}.0.weight", f"{name}.0.bias"} <= set(graph.state_dict())


def test_arguments_are_found_by_place_and_by_name(graph: fx.GraphModule) -> None:
    reshape = next(calls(graph, aten.reshape.default))
    assert input_list(reshape, 1)[1:] == [2, 3]
    assert input_node(reshape, 0).target is aten.gelu.default
    with pytest.raises(AssertionError, match="argument 0 of"):
        input_list(reshape, 0)
    with pytest.raises(AssertionError, match="argument 1 of"):
        input_node(reshape, 1)
    linear = next(calls(graph, aten.linear.default))
    bias = argument(linear, 2, "bias")
    linear.args, linear.kwargs = linear.args[:2], {"bias": bias}
    assert argument(linear, 2, "bias") is bias
    assert argument(linear, 3, "more", 7) == 7


def test_ancestors_are_all_that_a_node_depends_on(graph: fx.GraphModule) -> None:
    gelu = next(calls(graph, aten.gelu.default))
    names = {str(node.target) for node in ancestors(gelu)}
    assert names == {"x", "inner.0.weight", "inner.0.bias", "aten.linear.default"}


def test_paths_lie_inside_modules_by_their_steps() -> None:
    assert is_inside("blocks.1", "blocks.1")
    assert is_inside("blocks.1.mlp", "blocks.1")
    assert not is_inside("blocks.10", "blocks.1")


def test_inputs_are_ordered_as_when_they_were_traced(graph: fx.GraphModule) -> None:
    x, scale = torch.randn(3, 4), torch.tensor(5.0)
    assert all(a is b for a, b in zip(flat_inputs(graph, (), {"scale": scale, "x": x}), (x, scale), strict=True))
    args, kwargs = ordered_inputs(graph, (), {"scale": scale, "x": x})
    assert args[0] is x
    assert kwargs["scale"] is scale


def test_dims_that_may_vary_are_open(graph: fx.GraphModule) -> None:
    linear = next(calls(graph, aten.linear.default))
    assert [is_open(linear, dim) for dim in (0, 1)] == [True, False]
    del linear.meta["val"]
    assert is_open(linear, 1)


def test_copies_of_inputs_share_no_memory() -> None:
    given = {"a": [torch.zeros(2), 3], "b": "text"}
    copied = copy_tensors(given)
    copied["a"][0].add_(1)
    assert given["a"][0].tolist() == [0, 0]  # type: ignore[index, union-attr]
    assert copied["a"][1:] == [3]
    assert copied["b"] == "text"


def test_a_model_without_tensors_is_on_the_cpu() -> None:
    assert device_of(nn.ReLU()) == torch.device("cpu")
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
