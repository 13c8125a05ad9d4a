"""Structures come back without a class being named."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree

from qpass.errors import DataError
from qpass.graph.signature.named_outputs import NamedOutputs
from qpass.serialize.trees import decode_inputs, decode_tree, encode_inputs, encode_tree

Point = namedtuple("Point", ["x", "y"])


@dataclass
class Fields:
    logits: Any
    loss: Any = None


pytree.register_dataclass(Fields)


def again(value: Any) -> Any:
    leaves, spec = pytree.tree_flatten(value)
    data = json.loads(json.dumps(encode_tree(spec)))
    return pytree.tree_unflatten(leaves, decode_tree(data, "out_spec"))


@pytest.mark.parametrize(
    "value",
    [
        1,
        (1, [2, {"a": 3, 4: 5}]),
        OrderedDict(b=1, a=2),
        deque([1, (2,)]),
        {"x": (), "y": []},
        (torch.Size([1, 2]),),
        {None: 1, 1.5: 2},
    ],
    ids=repr,
)
def test_builtin_structures_keep_their_type(value: Any) -> None:
    found = again(value)
    assert found == value
    assert type(found) is type(value)


def test_named_tuples_keep_their_names() -> None:
    found = again((Point(1, 2), torch.return_types.max((3, 4))))  # type: ignore[call-arg]
    assert (type(found[0]).__name__, found[0]._fields, found[0].y) == ("Point", ("x", "y"), 2)
    assert (found[1].values, found[1].indices) == (3, 4)


def test_classes_with_fields_become_named_outputs() -> None:
    found = again(Fields(1))
    assert type(found) is NamedOutputs
    assert (found.logits, found.loss) == (1, None) or found.loss is None
    assert again(NamedOutputs({"a": 1}, ["b"])).b is None
    assert again(defaultdict(list, a=1)) == {"a": 1}


class Nameless:
    pass


def test_a_class_without_names_is_refused() -> None:
    if Nameless not in pytree.SUPPORTED_NODES:
        pytree.register_pytree_node(Nameless, lambda value: ([1, 2], "context"), lambda values, context: Nameless())
    with pytest.raises(DataError, match="save: has inputs or outputs of the class Nameless, whose fields have no names"):
        encode_tree(pytree.tree_structure(Nameless()))


def test_inputs_of_a_dataclass_are_refused() -> None:
    encode_inputs(pytree.tree_structure(((1, [2]), {"a": Point(1, 2)})))
    with pytest.raises(DataError, match="save: takes inputs of a dataclass, which no file can hold"):
        encode_inputs(pytree.tree_structure(((1,), {"a": [Fields(1)]})))


def inputs(args: int, names: list[str]) -> Any:
    return encode_tree(pytree.tree_structure((tuple(range(args)), dict.fromkeys(names, 0))))


def test_names_of_inputs_belong_to_their_structure() -> None:
    names, spec = decode_inputs(inputs(1, ["b"]), ["a", "b"])
    assert names == ["a", "b"]
    assert spec.num_leaves == 2


@pytest.mark.parametrize(
    ("data", "names", "message"),
    [
        (inputs(1, ["b"]), ["a"], "in_names: has 1 names; expected one for each input"),
        (inputs(1, ["b"]), ["b", "b"], "in_names: has 2 names"),
        (inputs(1, ["b"]), "ab", "in_names: has 0 names"),
        (inputs(1, ["class"]), ["a", "class"], "in_spec: has the name 'class'"),
        (inputs(1, ["b"]), ["a", "b c"], "in_names: has the name 'b c'"),
        (encode_tree(pytree.tree_structure([(), {}])), [], "in_spec: is no structure of inputs"),
        (encode_tree(pytree.tree_structure(((), ()))), [], "in_spec: is no structure of inputs"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(data: Any, names: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_inputs(data, names)


LEAF = {"kind": "tuple", "keys": None, "children": [None]}


@pytest.mark.parametrize(
    "data",
    [
        5,
        "tuple",
        [],
        {**LEAF, "kind": "set"},
        {**LEAF, "kind": ["tuple"]},
        {**LEAF, "more": 1},
        {**LEAF, "children": None},
        {**LEAF, "kind": "dict"},
        {**LEAF, "kind": "dict", "keys": ["a", "b"]},
        {**LEAF, "kind": "dict", "keys": [{"tuple": []}]},
        {"kind": "dict", "keys": ["a", "a"], "children": [None, None]},
        {"kind": "named tuple", "name": "class", "keys": ["a"], "children": [None]},
        {"kind": "named tuple", "name": "P", "keys": ["a b"], "children": [None]},
        {"kind": "named tuple", "name": "P", "keys": [1], "children": [None]},
        {"kind": "fields", "keys": ["a"], "empty": [1], "children": [None]},
        {"kind": "fields", "keys": ["a"], "children": [None]},
    ],
    ids=str,
)
def test_other_data_is_refused(data: Any) -> None:
    with pytest.raises(DataError):
        decode_tree(data, "out_spec")
