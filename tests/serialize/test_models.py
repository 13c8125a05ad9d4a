"""Whatever a graph computes with and gives, a file holds: tensors, sizes, constants, structures."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.utils._pytree as pytree
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from transformers.utils import ModelOutput

import qpass
from qpass.errors import DataError
from qpass.graph.facts import update_facts
from qpass.graph.signature.named_outputs import NamedOutputs
from qpass.serialize import file as serialize_file
from qpass.serialize.functions import function_by_name, name_of
from qpass.serialize.trees import decode_tree, encode_tree
from qpass.serialize.values import decode, encode
from tests.random.parts import PHASES
from tests.random.recipes import recipes
from tests.random.transformers import build, shapes


class Pair(NamedTuple):
    scores: Any
    rest: Any


@dataclasses.dataclass
class Output(ModelOutput):
    logits: Tensor | None = None
    missing: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclasses.dataclass
class Plain:
    scores: Tensor
    missing: Tensor | None


pytree.register_dataclass(Plain, serialized_type_name="tests.Plain")

#: Ways to give two tensors.
OUTPUTS: dict[str, Any] = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, (b,)],
    "dict": lambda a, b: {"logits": a, "hidden": [b, None]},
    "ordered": lambda a, b: OrderedDict(z=a, y=b),
    "named tuple": lambda a, b: Pair(a, Pair(b, {"b": b})),
    "return type": lambda a, b: (torch.max(a, 1), b),
    "ModelOutput": lambda a, b: Output(logits=a, hidden_states=(b, a)),
    "dataclass": lambda a, b: Plain(a, None),
    "nested": lambda a, b: ({"x": Pair(a, [b])}, 3, "text", None),
}


class Everything(nn.Module):
    """Reads tensors of all kinds, and computes with sizes, infinities, dtypes and slices."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self.output = output
        self.layer = nn.Linear(8, 6)
        self.tied = nn.Linear(8, 6)
        self.tied.weight = self.layer.weight
        self.register_buffer("mean", torch.full((8,), 0.25), persistent=False)
        self.register_buffer("mask", torch.tensor([True, False] * 3))
        self.register_buffer("turn", torch.polar(torch.ones(3), torch.arange(3.0)), persistent=False)
        self.plain = torch.arange(6.0)

    def forward(self, x: Tensor) -> Any:
        x = x - self.mean
        y = self.layer(x) + self.tied(x) + self.plain
        y = torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (3, 2))) * self.turn).flatten(1)
        y = y.masked_fill(~self.mask, float("-inf")).softmax(-1)
        rows = torch.sym_max(x.shape[0] // 2, 1) * 2 - math.floor(x.shape[0] / 3)
        b = y[..., ::2].to(torch.float64) * rows + torch.full((1,), float("nan"), device=x.device).nan_to_num(2.0)
        return OUTPUTS[self.output](y * (x.shape[0] ** 2), b)


def equal(first: Any, second: Any) -> bool:
    """Same types, but for classes that a file does not name, and same tensors to the bit."""
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and isinstance(second, type(first).__mro__[-2]) and all(map(equal, first, second))
    return first == second


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_loaded_graph_gives_what_the_saved_one_gave(output: str, tmp_path: Path) -> None:
    model, x = Everything(output).eval(), torch.randn(8, 8)
    graph = qpass.quantize_graph(model, [x], progress=False)
    again = qpass.load(qpass.save(graph, tmp_path / "m.qpass"))
    for batch in (x, x[:3], torch.randn(13, 8)):
        first, second = graph(batch), again(batch)
        if output == "dataclass":
            assert equal(first.scores, second.scores)
            assert second.missing is None
        else:
            assert equal(first, second)
    assert set(again.state_dict()) == set(graph.state_dict())
    assert {name for name, _ in again.named_parameters()} == {name for name, _ in graph.named_parameters()}
    assert torch.equal(qpass.load(qpass.save(again, tmp_path / "n.qpass"))(x)[0], again(x)[0]) if output == "tuple" else True


class Branches(nn.Module):
    """A network with a branch whose bodies stay graphs of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_buffer("shift", torch.arange(8.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(torch.cond(y.sum() > 0, lambda z: z + self.shift, lambda z: z.cos(), (y,)))


def test_branches_travel(tmp_path: Path) -> None:
    x = torch.randn(8, 8)
    graph = qpass.quantize_graph(Branches().eval(), [x], progress=False)
    again = qpass.load(qpass.save(graph, tmp_path / "m.qpass"))
    results = [(graph(batch), again(batch)) for batch in (x, -x, 9 * x, -9 * x[:3])]
    assert all(torch.equal(*pair) for pair in results)
    assert "higher_order.cond" in str(again.graph)


def test_outputs_of_other_libraries_keep_their_fields(tmp_path: Path) -> None:
    model, x = Everything("ModelOutput").eval(), torch.randn(8, 8)
    graph = qpass.quantize_graph(model, [x], progress=False)
    out = qpass.load(qpass.save(graph, tmp_path / "m.qpass"))(x)
    expected = graph(x)
    assert isinstance(out, NamedOutputs)
    assert torch.equal(out.logits, expected.logits)
    assert torch.equal(out[0], expected["logits"])
    assert torch.equal(out["hidden_states"][1], expected.hidden_states[1])
    assert out.missing is None
    assert "missing" not in out
    assert len(out[:2]) == len(out.to_tuple()) == 2
    with pytest.raises(AttributeError, match="no field 'logit': they are logits, hidden_states"):
        out.logit  # noqa: B018
    assert copy.deepcopy(out).missing is None


class TakesClass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, pair: Any) -> Tensor:
        return self.layer(pair[0] if isinstance(pair, tuple) else pair.scores)


def test_inputs_keep_their_structure_or_are_refused(tmp_path: Path) -> None:
    x = torch.randn(8, 8)
    graph = qpass.quantize_graph(TakesClass().eval(), [{"pair": Pair(x, x + 1)}], progress=False)
    again = qpass.load(qpass.save(graph, tmp_path / "m.qpass"))
    assert torch.equal(again(pair=Pair(x, x)), graph(pair=Pair(x, x)))
    graph = qpass.quantize_graph(TakesClass().eval(), [{"pair": Plain(x, None)}], progress=False)
    with pytest.raises(DataError, match="takes inputs of a dataclass, which no file can hold"):
        qpass.save(graph, tmp_path / "n.qpass")


def test_a_named_tuple_keeps_its_names(tmp_path: Path) -> None:
    graph = qpass.quantize_graph(Everything("named tuple").eval(), [torch.randn(8, 8)], progress=False)
    out = qpass.load(qpass.save(graph, tmp_path / "m.qpass"))(torch.ones(2, 8))
    assert type(out).__name__ == "Pair"
    assert out._fields == ("scores", "rest")
    assert out.rest.rest["b"].shape == (2, 3)


VALUES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.floats(), st.complex_numbers()),
        st.sampled_from([..., torch.float16, torch.channels_last, torch.strided, torch.device("cpu"), torch.device("cuda", 1)]),
        st.builds(slice, st.none() | st.integers(-3, 3), st.none() | st.integers(), st.none()),
        st.builds(range, st.integers(0, 5)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=2),
    ),
    max_leaves=6,
)


@given(VALUES)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_values_come_back_with_their_types(value: Any) -> None:
    again = decode(serialize_file.json.loads(serialize_file.json.dumps(encode(value, "node"))), {}, "node")
    assert repr(again) == repr(value)


TREES = st.recursive(
    st.just(0),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=2).map(deque),
        st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=2),
        st.dictionaries(st.text(max_size=2), inner, max_size=2).map(OrderedDict),
        st.builds(Pair, inner, inner),
        st.builds(lambda a: NamedOutputs({"logits": a}, ["loss"]), inner),
    ),
    max_leaves=8,
)


@given(TREES)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_structures_come_back(tree: Any) -> None:
    leaves, spec = pytree.tree_flatten(tree)
    again = pytree.tree_unflatten(leaves, decode_tree(encode_tree(spec), "tree"))
    assert repr(again) == repr(tree)


def test_every_function_of_python_that_a_file_names_is_found_again() -> None:
    from torch._export.serde.serialize import _SYM_OPS

    for function in _SYM_OPS:
        assert function_by_name(name_of(function, "node"), "node") is function
    with pytest.raises(DataError, match="node: calls system, which no file can hold"):
        name_of(__import__("os").system, "node")


@pytest.fixture
def small(tmp_path: Path) -> fx.GraphModule:
    return qpass.quantize_graph(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)), [torch.randn(8, 4)], progress=False)


@pytest.mark.parametrize("damage", ["tensor", "node", "fact", "structure"])
def test_save_reads_back_what_it_wrote(
    damage: str, small: fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader that changes anything makes ``save`` refuse, and what lay there stays."""
    path = tmp_path / "m.qpass"
    path.write_bytes(b"what lay there")
    real = serialize_file.load_graph

    def load_wrongly(draft: Path) -> fx.GraphModule:
        again = real(draft)
        if damage == "tensor":
            next(again.buffers()).view(-1)[0] += 1
        elif damage == "node":
            next(n for n in again.graph.nodes if n.target == torch.ops.aten.gelu.default).target = torch.ops.aten.relu.default
        elif damage == "fact":
            update_facts(again, dynamic_batch=False)
        else:
            again.graph._codegen.pytree_info = again.graph._codegen.pytree_info._replace(orig_args=["y"])
        return again

    monkeypatch.setattr(serialize_file, "load_graph", load_wrongly)
    with pytest.raises(DataError, match="is not read back as it was written"):
        qpass.save(small, path)
    assert path.read_bytes() == b"what lay there"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_no_file_holds_is_refused_by_name(small: fx.GraphModule, tmp_path: Path) -> None:
    node = next(n for n in small.graph.nodes if n.target == torch.ops.aten.gelu.default)
    node.kwargs = {"approximate": object()}
    with pytest.raises(DataError, match=f"{node.name}: has a value of type object, which no file can hold"):
        qpass.save(small, tmp_path / "m.qpass")
    node.kwargs, node.target = {}, torch.nn.functional.gelu
    with pytest.raises(DataError, match=f"{node.name}: calls gelu, which no file can hold"):
        qpass.save(small, tmp_path / "m.qpass")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@given(shapes(), recipes(), st.sampled_from(sorted(OUTPUTS)))
@settings(max_examples=6, derandomize=True, deadline=None)
def test_any_network_and_recipe_is_saved_to_the_bit(shape: Any, recipe: dict[str, Any], output: str) -> None:
    check_random(shape, recipe, output)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@given(shapes(), recipes(), st.sampled_from(sorted(OUTPUTS)))
@settings(max_examples=200, deadline=None, phases=PHASES, derandomize=True, database=None)
def test_two_hundred_networks_are_saved_to_the_bit(shape: Any, recipe: dict[str, Any], output: str) -> None:
    check_random(shape, recipe, output)


class Wrapped(nn.Module):
    """A random network with a buffer of no state_dict and odd outputs."""

    def __init__(self, inner: nn.Module, output: str) -> None:
        super().__init__()
        self.inner, self.output = inner, output
        self.register_buffer("offset", torch.tensor([0.5]), persistent=False)

    def forward(self, x: Tensor) -> Any:
        y = self.inner(x - self.offset)
        return OUTPUTS[self.output](y, y.relu())


def check_random(shape: Any, recipe: dict[str, Any], output: str) -> None:
    import tempfile
    import warnings

    x = torch.randn(8, shape.tokens, 6, generator=torch.Generator().manual_seed(shape.seed))
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        inner = {**recipe, "rules": {f"inner.{pattern}": change for pattern, change in recipe.get("rules", {}).items()}}
        graph = qpass.quantize_graph(Wrapped(build(shape), output).eval(), [x], inner, progress=False)
        again = qpass.load(qpass.save(graph, Path(folder) / "m.qpass"))
        for batch in (x, x[:1], torch.cat([x, x])[:11]):
            for first, second in zip(pytree.tree_leaves(graph(batch)), pytree.tree_leaves(again(batch)), strict=True):
                assert torch.equal(first, second) if isinstance(first, Tensor) else first == second
