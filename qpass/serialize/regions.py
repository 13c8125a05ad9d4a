"""Encodes bodies of branches and loops as JSON and back. They stay float and call no modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from qpass.errors import DataError
from qpass.graph.edit import fetch
from qpass.serialize.limits import dotted_path
from qpass.serialize.nodes import Targets, check_resolved, decode_nodes, encode_node
from qpass.serialize.tensors import grouped, put_tensor


def encode_regions(graph_module: fx.GraphModule) -> dict[str, Any]:
    """Returns JSON data for every region that a graph reads, by name, with nested regions.

    Raises:
        DataError: If a region calls a module.
    """
    found = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and isinstance(region := fetch(graph_module, str(node.target)), fx.GraphModule):
            if any(inner.op == "call_module" for inner in region.graph.nodes):
                raise DataError("is a region that calls modules, which no file can hold", where=node.name)
            nodes = [encode_node(inner) for inner in region.graph.nodes]
            found[str(node.target)] = {"nodes": nodes, "regions": encode_regions(region)}
    return found


def add_regions(root: nn.Module, regions: Any, tensors: Mapping[str, Tensor], kinds: Mapping[str, Any]) -> None:
    """Registers regions on a module, with their tensors, whose names start with the region's.

    Raises:
        DataError: If ``encode_regions`` would not write one.
    """
    if not isinstance(regions, dict):
        raise DataError(f"is a {type(regions).__name__}", where="regions", expected="a mapping")
    groups = grouped(tensors)
    for name, data in regions.items():
        if "." in dotted_path(name, "regions"):
            raise DataError(f"has the name {name!r}", where="regions", expected="a name without dots")
        if (
            not isinstance(data, dict)
            or set(data) != {"nodes", "regions"}
            or not isinstance(data["regions"], dict)
            or not isinstance(data["nodes"], list)
        ):
            raise DataError("is no region", where=name, expected="nodes and regions")
        body = nn.Module()
        own = groups.get(name, {})
        inner = {kind: {key.removeprefix(f"{name}.") for key in names} for kind, names in kinds.items()}
        for key, tensor in own.items():
            if key.partition(".")[0] not in data["regions"]:
                put_tensor(body, key, tensor, inner)
        add_regions(body, data["regions"], own, inner)
        if any(isinstance(node, dict) and node.get("target") == "qpass.check_inputs" for node in data["nodes"]):
            raise DataError("checks inputs", where=name, expected="a region, whose graph has checked them")
        graph = decode_nodes(data["nodes"], Targets(own.keys(), data["regions"].keys(), ()))
        region = fx.GraphModule(body, graph)
        check_resolved(region)
        root.add_module(name, region)
