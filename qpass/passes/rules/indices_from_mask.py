"""x[:, mask] -> x[:, positions] for constant masks: torch's ONNX exporter rejects masks after a slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from qpass.graph.edit import add_constant, aten, input_list
from qpass.graph.fx_rule import fx_rule
from qpass.passes.constants import constant_values


@fx_rule(aten.index.Tensor, aten.index_put.default, prepare=constant_values)
def indices_from_mask(graph_module: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, Any]) -> fx.Node | None:
    """Replaces each constant mask by its positions, one tensor per dim of the mask."""
    source, _, *rest = node.args
    indices = input_list(node, 1)
    positions = [each for index in indices for each in _positions(graph_module, node, index, values)]
    if positions == indices:
        return None
    node.args = (source, positions, *rest)
    return node


def _positions(
    graph_module: fx.GraphModule, node: fx.Node, index: fx.Node | None, values: Mapping[fx.Node, Any]
) -> list[fx.Node | None]:
    mask = None if index is None else values.get(index)
    if not isinstance(mask, Tensor) or mask.dtype not in (torch.bool, torch.uint8):
        return [index]
    return [add_constant(graph_module, f"{node.name}_positions", each, node) for each in mask.nonzero(as_tuple=True)]
