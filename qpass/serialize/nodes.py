"""Nodes of a graph as JSON and back, with their plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qpass.errors import DataError
from qpass.nn import QuantizedLayer
from qpass.passes.plan import Declined, LayerPlan
from qpass.quantizers import Quantizer
from qpass.runtime.arguments import is_number
from qpass.runtime.records import record
from qpass.serialize.functions import bodies, function_by_name, takes_keywords, target_name
from qpass.serialize.hidden_names import check_hides_nothing
from qpass.serialize.limits import check_size, dotted_path, identifier
from qpass.serialize.values import decode, encode

_PLANS: dict[str, type[LayerPlan | Declined]] = {kind.__name__: kind for kind in (LayerPlan, Declined)}
#: Fields of a node: all of them are written, and nothing else is read.
_FIELDS = {"op", "name", "target", "args", "kwargs", "path", "meta", "plan"}


@dataclasses.dataclass(frozen=True)
class Targets:
    """What nodes of a graph may read and call: names of its tensors, regions and modules."""

    tensors: Collection[str]
    regions: Collection[str]
    modules: Collection[str]


def encode_node(node: fx.Node) -> dict[str, Any]:
    """Returns JSON data for a node.

    Raises:
        DataError: Naming the node, if it calls or holds what a file cannot.
    """
    plan = node.meta.get("qpass")
    stack = node.meta.get("nn_module_stack") or {}
    return {
        "op": node.op,
        "name": node.name,
        "target": target_name(node),
        "args": [encode(value, node.name) for value in node.args],
        "kwargs": {key: encode(value, node.name) for key, value in node.kwargs.items()},
        "path": [[key, entry[0]] for key, entry in stack.items()],
        "meta": {key: encode(node.meta[key], node.name) for key in _META if key in node.meta},
        "plan": None if plan is None else {"kind": type(plan).__name__, "fields": dataclasses.asdict(plan)},
    }


def decode_nodes(data: Sequence[Mapping[str, Any]], targets: Targets) -> fx.Graph:
    """Returns a graph of these nodes, in order.

    Raises:
        DataError: Naming the first node that ``encode_node`` would not write, or that reads a missing
            value.
    """
    if not isinstance(data, list) or not data:
        raise DataError("has no list of nodes", where="nodes", expected="a list of nodes")
    graph, nodes = fx.Graph(), dict[str, fx.Node]()
    for index, entry in enumerate(data):
        if not isinstance(entry, dict) or set(entry) != _FIELDS:
            raise DataError("is no node", where=f"nodes[{index}]", expected=f"the fields {sorted(_FIELDS)}")
        name = identifier(entry["name"], f"nodes[{index}]")
        if name in nodes or (entry["op"] == "output") != (index == len(data) - 1):
            raise DataError("stands where it cannot", where=name, expected="names that differ, and one output at the end")
        nodes[name] = _decode_node(graph, entry, nodes, targets)
    called = [entry["target"] for entry in data if entry["op"] == "call_module"]
    if len(set(called)) != len(called):
        raise DataError("calls a module twice", where="nodes", expected="a module of its own for each call")
    return graph


def _decode_node(graph: fx.Graph, entry: Mapping[str, Any], nodes: Mapping[str, fx.Node], targets: Targets) -> fx.Node:
    name, op = entry["name"], entry["op"]
    if not isinstance(op, str) or op not in _TARGETS:
        raise DataError(f"is a {str(op)[:60]!r}", where=name, expected=f"one of {', '.join(_TARGETS)}")
    target = _TARGETS[op](entry["target"], name, targets)
    if not isinstance(entry["args"], list) or not isinstance(entry["kwargs"], dict):
        raise DataError("has no arguments", where=name, expected="a list and a mapping")
    check_size([entry["args"], entry["kwargs"], entry["meta"], entry["path"]], name)
    args = tuple(decode(value, nodes, name) for value in entry["args"])
    kwargs = {identifier(key, name): decode(value, nodes, name) for key, value in entry["kwargs"].items()}
    if (kwargs and not takes_keywords(target)) or (args and op in ("placeholder", "get_attr")):
        raise DataError(f"is a {op} with arguments", where=name, expected="none")
    if op == "call_module" and list(map(type, args)) != [fx.Node]:
        raise DataError("calls a module with other arguments", where=name, expected="one node")
    if not all(_is_region(node, targets) for node in bodies(target, args)):
        raise DataError("runs what is no region", where=name, expected="regions of the file")
    node = graph.create_node(op, target, args, kwargs, name=name)
    if any(_is_region(read, targets) and read not in bodies(target, args) for read in node.all_input_nodes):
        raise DataError("reads a region, which is run and not read", where=name, expected="a tensor")
    if node.name != name:
        raise DataError("has the name of something that the code calls", where=name, expected="another name")
    node.meta["nn_module_stack"] = _module_stack(entry["path"], name)
    node.meta.update(_known_meta(entry["meta"], name))
    if entry["plan"] is not None:
        node.meta["qpass"] = _plan(entry["plan"], name)
    return node


def _known_meta(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict) or not data.keys() <= _META.keys():
        raise DataError("has other notes", where=where, expected=f"{sorted(_META)}")
    return {key: _META[key](decode(value, {}, where), where) for key, value in data.items()}


def _plan(data: Any, where: str) -> LayerPlan | Declined:
    if not isinstance(data, dict) or set(data) != {"kind", "fields"} or str(data["kind"]) not in _PLANS:
        raise DataError("has no plan that a file can hold", where=where, expected=f"one of {', '.join(_PLANS)}")
    return record(_PLANS[str(data["kind"])], data["fields"], where)


def _function(target: Any, where: str, _: Targets) -> Any:
    return function_by_name(target, where)


def _input(target: Any, where: str, _: Targets) -> str:
    return identifier(target, where)


def _attribute(target: Any, where: str, targets: Targets) -> str:
    path = dotted_path(target, where)
    return _among(path, targets.regions if path in targets.regions else targets.tensors, "tensors", where)


def _module(target: Any, where: str, targets: Targets) -> str:
    return _among(dotted_path(target, where), targets.modules, "modules", where)


def _output(target: Any, where: str, _: Targets) -> str:
    return _among(target, ("output",), "targets", where)


def _among(target: Any, names: Collection[str], kind: str, where: str) -> str:
    if not isinstance(target, str) or target not in names:
        raise DataError(f"reads {str(target)[:60]!r}", where=where, expected=f"one of the file's {kind}")
    return str(target)


_TARGETS = {
    "placeholder": _input,
    "get_attr": _attribute,
    "call_function": _function,
    "call_module": _module,
    "output": _output,
}


def _is_region(node: Any, targets: Targets) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr" and node.target in targets.regions


def check_resolved(graph_module: fx.GraphModule) -> None:
    """Rejects names that a graph's code would resolve to something else, such as attributes of its class.

    Names of inputs must not shadow anything that the code uses.

    Raises:
        DataError: Naming the node.
    """
    check_hides_nothing(graph_module.graph)
    for node in graph_module.graph.nodes:
        if node.op not in ("get_attr", "call_module"):
            continue
        found: Any = graph_module
        for step in str(node.target).split("."):
            found = getattr(found, step)
        kinds = (Quantizer, QuantizedLayer) if node.op == "call_module" else (Tensor, fx.GraphModule)
        if not isinstance(found, kinds):
            raise DataError(f"reads a {type(found).__name__}", where=node.name, expected="a tensor or module of the file")


def _module_stack(data: Any, where: str) -> dict[str, tuple[str, str]]:
    if not isinstance(data, list) or not all(isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in data):
        raise DataError("has no module path", where=where, expected="pairs of texts")
    return {key: (path, "") for key, path in data}


def _shape(value: Any, where: str) -> Any:
    """Returns the checked shape of a node's value, or shapes of several; sizes may be names."""
    if isinstance(value, str) or value is None or (is_number(value, int) and value >= 0):
        return value
    if isinstance(value, list | tuple):
        return type(value)(_shape(item, where) for item in value)
    raise DataError(f"has the shape {value!r}", where=where, expected="sizes and names of sizes")


def _dtype(value: Any, where: str) -> Any:
    """Returns the checked dtype of a node's value, or dtypes of several."""
    if isinstance(value, torch.dtype) or value is None:
        return value
    if isinstance(value, list | tuple):
        return type(value)(_dtype(item, where) for item in value)
    raise DataError(f"has the type {value!r}", where=where, expected="types of torch")


#: Entries of ``node.meta`` that are saved, with their checks.
_META = {"shape": _shape, "dtype": _dtype}
