"""Tensors of a graph: their names, kinds and bytes come back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.errors import DataError
from qpass.serialize.tensors import (
    below,
    decode_kinds,
    digest_of,
    from_file,
    grouped,
    kinds_of,
    put_tensor,
    tensors_of,
    to_file,
)


def graph() -> fx.GraphModule:
    """A parameter, a buffer, one that no state_dict has, a complex one, and an attribute."""
    root = nn.Module()
    root.weight = nn.Parameter(torch.ones(2))
    root.register_buffer("mean", torch.zeros(2))
    root.register_buffer("scratch", torch.full((2,), 2.0), persistent=False)
    root.register_buffer("phase", torch.tensor([1 + 2j]))
    root.plain = torch.full((2,), 3.0)
    made = fx.Graph()
    for name in ("weight", "mean", "scratch", "phase", "plain"):
        node = made.get_attr(name)
    made.output(node)
    return fx.GraphModule(root, made)


def test_all_that_is_read_is_there_with_its_kind() -> None:
    found = tensors_of(graph())
    assert {name: tensor.flatten()[0].item() for name, tensor in found.items()} == {
        "weight": 1, "mean": 0, "scratch": 2, "phase": 1 + 2j, "plain": 3,
    }  # fmt: skip
    assert not found["weight"].requires_grad
    kinds = kinds_of(graph())
    assert kinds["parameters"] == ["weight"]
    assert kinds["complex"] == ["phase"]
    assert "scratch" in kinds["transient"]
    assert not {"mean", "weight", "phase"} & set(kinds["transient"])


def test_what_is_no_tensor_is_refused() -> None:
    module = graph()
    del module.plain
    module.plain = "text"
    with pytest.raises(DataError, match="plain: reads a str, which no file can hold; expected a tensor"):
        tensors_of(module)


def test_tensors_are_put_back_under_their_names_and_kinds() -> None:
    module, root = graph(), nn.Module()
    kinds = {kind: set(names) for kind, names in kinds_of(module).items()}
    stored = to_file(tensors_of(module))
    assert stored["phase"].tolist() == [[1, 2]], "real and imaginary part"
    for name, tensor in from_file(stored, kinds["complex"]).items():
        put_tensor(root, f"a.b.{name}", tensor, {kind: {f"a.b.{n}" for n in names} for kind, names in kinds.items()})
    inner = root.get_submodule("a.b")
    assert isinstance(inner.weight, nn.Parameter)
    assert not inner.weight.requires_grad
    assert set(inner.state_dict()) == set(module.state_dict())
    assert "scratch" not in inner.state_dict()
    assert inner.phase.tolist() == [1 + 2j]
    assert inner.scratch.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "kinds: has other kinds; expected parameters, transient, complex"),
        ({"parameters": [], "transient": []}, "has other kinds"),
        ({"parameters": ["b"], "transient": [], "complex": []}, "names other tensors than the file has"),
        ({"parameters": "a", "transient": [], "complex": []}, "names other tensors"),
        ({"parameters": [3], "transient": [], "complex": []}, "names other tensors"),
    ],
)
def test_other_kinds_are_refused(data: Any, message: str) -> None:
    good = {"parameters": ["a"], "transient": [], "complex": []}
    assert decode_kinds(good, ["a"]) == {"parameters": {"a"}, "transient": set(), "complex": set()}
    with pytest.raises(DataError, match=message):
        decode_kinds(data, ["a"])


def test_names_are_grouped_by_their_first_step() -> None:
    tensors: dict[str, Tensor] = {name: torch.tensor(float(n)) for n, name in enumerate(("a.x", "a.b.y", "ab.z", "w"))}
    assert {name: list(group) for name, group in grouped(tensors).items()} == {"a": ["x", "b.y"], "ab": ["z"]}
    assert {name: tensor.item() for name, tensor in below("a", tensors).items()} == {"x": 0, "b.y": 1}


def test_a_digest_is_of_names_values_and_header() -> None:
    tensors = {"a": torch.ones(2), "b": torch.zeros(2)}
    own = digest_of(tensors, {"n": 1})
    assert own == digest_of(dict(reversed(tensors.items())), {"n": 1})
    others = [
        digest_of(tensors, {"n": 2}),
        digest_of({"a": tensors["b"], "b": tensors["a"]}, {"n": 1}),
        digest_of({**tensors, "b": -tensors["b"]}, {"n": 1}),
        digest_of({"a": tensors["a"], "c": tensors["b"]}, {"n": 1}),
        digest_of({**tensors, "b": tensors["b"].double()}, {"n": 1}),
    ]
    assert len({own, *others}) == 6
