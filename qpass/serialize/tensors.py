"""The tensors that a graph reads, and their kinds: parameters, buffers, or non-persistent buffers."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from qpass.errors import DataError
from qpass.graph.edit import fetch
from qpass.runtime.tensor_file import digest
from qpass.serialize.limits import dotted_path

#: dtypes that safetensors lacks; their tensors are stored as real ones of the same bytes.
_AS_REAL = (torch.complex64, torch.complex128)


def tensors_of(graph_module: fx.GraphModule) -> dict[str, Tensor]:
    """Returns all that the graph computes with, by name: parameters, buffers and plain attributes.

    Raises:
        DataError: If a node reads something that is neither a tensor nor the body of a branch or loop.
    """
    found: dict[str, Tensor] = dict(graph_module.named_parameters(remove_duplicate=False))
    found.update(graph_module.named_buffers(remove_duplicate=False))
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            value = fetch(graph_module, str(node.target))
            if isinstance(value, fx.GraphModule):
                continue
            if not isinstance(value, Tensor):
                kind = type(value).__name__
                raise DataError(f"reads a {kind}, which no file can hold", where=node.name, expected="a tensor")
            found[str(node.target)] = value
    return {name: tensor.detach() for name, tensor in found.items()}


def kinds_of(graph_module: fx.GraphModule) -> dict[str, list[str]]:
    """Returns the names of tensors that are parameters, not in the state_dict, or complex."""
    kept = graph_module.state_dict()
    parameters = dict(graph_module.named_parameters(remove_duplicate=False))
    return {
        "parameters": sorted(parameters),
        "transient": sorted(name for name in tensors_of(graph_module) if name not in kept),
        "complex": sorted(name for name, tensor in tensors_of(graph_module).items() if tensor.dtype in _AS_REAL),
    }


def decode_kinds(data: Any, tensors: Collection[str]) -> dict[str, set[str]]:
    """Returns the checked output of ``kinds_of`` for the tensors of a file.

    Raises:
        DataError: If ``kinds_of`` would not return it.
    """
    kinds = ("parameters", "transient", "complex")
    if not isinstance(data, dict) or set(data) != set(kinds):
        raise DataError("has other kinds", where="kinds", expected=", ".join(kinds))
    if not all(
        isinstance(names, list) and all(isinstance(name, str) and name in tensors for name in names) for names in data.values()
    ):
        raise DataError("names other tensors than the file has", where="kinds", expected="lists of their names")
    return {kind: set(names) for kind, names in data.items()}


def to_file(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors in dtypes that safetensors supports."""
    return {name: torch.view_as_real(t.resolve_conj()) if t.dtype in _AS_REAL else t for name, t in tensors.items()}


def from_file(tensors: Mapping[str, Tensor], is_complex: Collection[str]) -> dict[str, Tensor]:
    """Inverts ``to_file``."""
    return {name: torch.view_as_complex(tensor) if name in is_complex else tensor for name, tensor in tensors.items()}


def digest_of(tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None = None) -> str:
    """Returns a digest of names and exact values, and of a header's plain data."""
    names = sorted(tensors)
    return digest(json.dumps([names, header], sort_keys=True), [tensors[name] for name in names])


def below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a module or region, by their names inside it."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Returns ``below`` for the first step of every dotted name."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        first, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(first, {})[rest] = tensor
    return groups


def put_tensor(root: nn.Module, name: str, tensor: Tensor, kinds: Mapping[str, Any]) -> None:
    """Registers a tensor under a dotted name, and creates the modules in between.

    Raises:
        DataError: If the name is not a valid path.
    """
    *parents, leaf = dotted_path(name, "tensors").split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    if name in kinds["parameters"]:
        root.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    else:
        root.register_buffer(leaf, tensor, persistent=name not in kinds["transient"])
