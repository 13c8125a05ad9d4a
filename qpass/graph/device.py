"""Moves graphs between devices, with everything in them that names a device."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from qpass.graph.edit import device_of
from qpass.graph.facts import facts_of, update_facts

M = TypeVar("M", bound=nn.Module)


def to_device(model: M, device: torch.device | str) -> M:
    """Moves a model in place, including its graphs' example inputs and the devices their nodes name.

    ``nn.Module.to`` alone leaves ``torch.zeros(..., device="cuda")`` in a graph unchanged.

    Returns:
        The model.
    """
    device = torch.device(device)
    model.to(device)
    for module in model.modules():
        if isinstance(module, fx.GraphModule):
            _move_graph(module, device)
    return model


def on_cpu(model: M) -> M:
    """Returns the model itself if it is on the CPU, otherwise a copy that is."""
    return model if device_of(model).type == "cpu" else to_device(copy.deepcopy(model), "cpu")


def _move_graph(graph_module: fx.GraphModule, device: torch.device) -> None:
    if (example := facts_of(graph_module).example) is not None:
        moved_example = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), example)
        update_facts(graph_module, example=moved_example)
    moved = lambda value: device if isinstance(value, torch.device) else value  # noqa: E731
    for node in graph_module.graph.nodes:
        node.args, node.kwargs = map_aggregate(node.args, moved), map_aggregate(node.kwargs, moved)
    graph_module.recompile()
