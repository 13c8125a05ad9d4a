"""The structure of inputs and outputs as JSON and back. No class is named, so none is imported."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque, namedtuple
from typing import Any

import torch
import torch.utils._pytree as pytree

from qpass.errors import DataError
from qpass.graph.signature.named_outputs import NamedOutputs
from qpass.serialize.limits import identifier
from qpass.serialize.values import decode, encode

_SEQUENCES: dict[str, Any] = {"tuple": tuple, "list": list, "deque": deque, "size": torch.Size}
_MAPPINGS: dict[str, Any] = {"dict": dict, "ordered": OrderedDict}


def encode_tree(spec: pytree.TreeSpec) -> Any:
    """Returns JSON data for a structure; None is a leaf.

    Lists, tuples, dicts and named tuples keep their type. Dataclasses and other classes with named
    fields become ``NamedOutputs``.

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
    """Returns JSON data for the structure of inputs, which a loaded graph requires unchanged.

    Raises:
        DataError: If one is of a class that files do not name.
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
    """Returns child names: the context is their list, or begins or ends with it."""
    if not isinstance(context, list | tuple):
        return None
    lists = [part for part in context if isinstance(part, list | tuple)]
    return list(lists[0]) if lists else list(context)


def _empty(kind: Any, context: Any, keys: list[str]) -> list[str]:
    if kind is NamedOutputs:
        return list(context[1])
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return [field.name for field in fields if field.name not in keys]


def decode_tree(data: Any, where: str) -> pytree.TreeSpec:
    """Returns the structure that ``encode_tree`` was given.

    Raises:
        DataError: If ``encode_tree`` would not write it.
    """
    return pytree.tree_structure(_example(data, where))


def decode_inputs(data: Any, names: Any) -> tuple[list[str], pytree.TreeSpec]:
    """Returns a graph's parameter names and input structure, which become the code of its forward.

    Raises:
        DataError: If a name cannot appear in code, or names and structure do not match.
    """
    spec = decode_tree(data, "in_spec")
    children = spec.children() if spec.type is tuple and spec.num_children == 2 else []
    if [child.type for child in children] != [tuple, dict]:
        raise DataError("is no structure of inputs", where="in_spec", expected="positional inputs and inputs by name")
    positional, by_name = children
    keys = [identifier(key, "in_spec") for key in by_name.context]
    own = [identifier(name, "in_names") for name in names] if isinstance(names, list) else []
    if len(set(own)) != positional.num_children + len(keys):
        raise DataError(f"has {len(own)} names", where="in_names", expected="one for each input")
    return own, spec


def _example(data: Any, where: str) -> Any:
    """Returns a structure with 0 for every leaf."""
    if data is None:
        return 0
    kind, children, keys = _parts(data, where)
    values = [_example(child, where) for child in children]
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](values)
    if kind == "named tuple":
        return namedtuple(identifier(data["name"], where), [identifier(key, where) for key in keys])(*values)
    if kind == "fields":
        return NamedOutputs(dict(zip(keys, values, strict=True)), data["empty"])
    return _MAPPINGS[kind](zip(keys, values, strict=True))


def _parts(data: Any, where: str) -> tuple[str, list[Any], list[Any]]:
    """Returns kind, children and keys of an entry."""
    kind, keys, children = (data.get(key) if isinstance(data, dict) else None for key in ("kind", "keys", "children"))
    if not isinstance(kind, str) or set(data) != _FIELDS.get(kind) or not isinstance(children, list):
        raise DataError(f"has an entry {str(data)[:60]}", where=where, expected="what qpass.save writes")
    if kind in _SEQUENCES:
        return kind, children, []
    if not isinstance(keys, list) or len(keys) != len(children):
        raise DataError("has other keys than children", where=where, expected="one key for each")
    if kind not in _MAPPINGS and not all(isinstance(key, str) for key in [*keys, *data.get("empty", ())]):
        raise DataError("has keys that are no texts", where=where, expected="names of fields")
    decoded = [decode(key, {}, where) for key in keys]
    if not all(isinstance(key, str | int | float | None) for key in decoded) or len(set(decoded)) != len(decoded):
        raise DataError("has keys that a mapping cannot have", where=where, expected="texts or numbers that differ")
    return kind, children, decoded


#: Fields of an entry of each kind.
_FIELDS: dict[Any, set[str]] = {
    **{kind: {"kind", "keys", "children"} for kind in (*_SEQUENCES, *_MAPPINGS)},
    "named tuple": {"kind", "keys", "children", "name"},
    "fields": {"kind", "keys", "children", "empty"},
}
