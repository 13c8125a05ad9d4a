"""The structure of inputs and outputs as JSON and back. Classes are not named: a file must not choose what is imported."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque, namedtuple
from typing import Any

import torch
import torch.utils._pytree as pytree

from qpass.errors import DataError
from qpass.named_outputs import NamedOutputs
from qpass.serialize.values import decode, encode

_SEQUENCES: dict[str, Any] = {"tuple": tuple, "list": list, "deque": deque, "size": torch.Size}
_MAPPINGS: dict[str, Any] = {"dict": dict, "ordered": OrderedDict}


def encode_tree(spec: pytree.TreeSpec) -> Any:
    """Returns JSON data for a structure; None is a leaf.

    Lists, tuples, dicts and named tuples are kept as they are. Dataclasses and other classes with named fields become
    ``NamedOutputs``.

    Raises:
        DataError: If a class has no names for its fields.
    """
    if spec.is_leaf():
        return None
    children = [encode_tree(child) for child in spec.children()]
    for kind, builtin in (*_SEQUENCES.items(), *_MAPPINGS.items()):
        if spec.type is builtin:
            keys = None if kind in _SEQUENCES else [encode(key, "save") for key in spec.context]
            return {"kind": kind, "keys": keys, "children": children}
    return {"children": children, **_encode_class(spec)}


def encode_inputs(spec: pytree.TreeSpec) -> Any:
    """Returns JSON data for the structure of inputs, which a loaded graph must be given as it was.

    Raises:
        DataError: If a class that a file does not name is among them.
    """
    data = encode_tree(spec)
    if _has_fields(data):
        raise DataError(
            "takes inputs of a dataclass, which no file can hold",
            where="save",
            expected="tensors in tuples, lists, dicts or named tuples",
            hint="give the model a forward that takes the fields one by one",
        )
    return data


def _has_fields(data: Any) -> bool:
    return data is not None and (data["kind"] == "fields" or any(map(_has_fields, data["children"])))


def _encode_class(spec: pytree.TreeSpec) -> dict[str, Any]:
    kind, context = spec.type, spec.context
    if pytree.is_namedtuple_class(context):
        return {"kind": "named tuple", "name": context.__name__, "keys": list(context._fields)}
    if pytree.is_structseq_class(kind):
        return {"kind": "named tuple", "name": kind.__name__, "keys": list(kind.__match_args__)}
    if issubclass(kind, tuple | list):
        return {"kind": "tuple" if issubclass(kind, tuple) else "list", "keys": None}
    keys = _keys(context)
    if keys is None or len(keys) != spec.num_children:
        raise DataError(
            f"has inputs or outputs of the class {kind.__name__}, whose fields have no names",
            where="save",
            expected="tensors in tuples, lists, dicts, named tuples or dataclasses",
        )
    if issubclass(kind, dict) and not dataclasses.is_dataclass(kind) and kind is not NamedOutputs:
        return {"kind": "ordered" if issubclass(kind, OrderedDict) else "dict", "keys": [encode(key, "save") for key in keys]}
    return {"kind": "fields", "keys": keys, "empty": _empty(kind, context, keys)}


def _keys(context: Any) -> list[str] | None:
    """Returns names of children: the context is a list of them, or begins or ends with one (dataclasses, defaultdict)."""
    if not isinstance(context, list | tuple):
        return None
    lists = [part for part in context if isinstance(part, list | tuple)]
    return list(lists[0]) if lists else list(context)


def _empty(kind: Any, context: Any, keys: list[str]) -> list[str]:
    if kind is NamedOutputs:
        return list(context[1])
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return [field.name for field in fields if field.name not in keys]


def decode_tree(data: Any) -> pytree.TreeSpec:
    """Returns the structure that ``encode_tree`` was given."""
    return pytree.tree_structure(_example(data))


def _example(data: Any) -> Any:
    """Returns a structure with 0 for every leaf."""
    if data is None:
        return 0
    kind, values = data["kind"], [_example(child) for child in data["children"]]
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](values)
    if kind == "named tuple":
        return namedtuple(data["name"], data["keys"])(*values)  # names are checked by namedtuple
    if kind == "fields":
        return NamedOutputs(dict(zip(data["keys"], values, strict=True)), data["empty"])
    keys = [decode(key, {}) for key in data["keys"]]
    return _MAPPINGS[kind](zip(keys, values, strict=True))
