"""Nodes of a graph as JSON and back, with their plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx

from qpass.config import QuantSpec
from qpass.passes.plan import Declined, LayerPlan, OperandPlan
from qpass.serialize.functions import function_by_name, target_name
from qpass.serialize.values import decode, encode

#: What travels of ``node.meta`` as it is.
_META = ("shape", "dtype")


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


def decode_nodes(data: Iterable[Mapping[str, Any]]) -> fx.Graph:
    """Returns a graph of these nodes, in order."""
    graph, nodes = fx.Graph(), dict[str, fx.Node]()
    for entry in data:
        name, is_function = entry["name"], entry["op"] == "call_function"
        target = function_by_name(entry["target"], name) if is_function else entry["target"]
        args = tuple(decode(value, nodes) for value in entry["args"])
        kwargs = {key: decode(value, nodes) for key, value in entry["kwargs"].items()}
        node = nodes[name] = graph.create_node(entry["op"], target, args, kwargs, name=name)
        node.meta["nn_module_stack"] = {key: (path, "") for key, path in entry["path"]}
        node.meta.update({key: decode(value, {}) for key, value in entry["meta"].items() if key in _META})
        if entry["plan"] is not None:
            node.meta["qpass"] = _decode_plan(entry["plan"])
    return graph


def _decode_plan(data: Mapping[str, Any]) -> LayerPlan | Declined:
    fields = data["fields"]
    if data["kind"] == "Declined":
        return Declined(**fields)
    spec = lambda values: None if values is None else QuantSpec(**values)  # noqa: E731
    operands = tuple(OperandPlan(**{**operand, "spec": spec(operand["spec"])}) for operand in fields["operands"])
    return LayerPlan(**{**fields, "operands": operands, "weight": spec(fields["weight"])})
