"""x[:, mask] -> x[:, positions] for constant masks: torch's ONNX exporter rejects masks after a slice."""

from __future__ import annotations

import torch
from torch import fx

from qpass.graph.edit import add_constant, aten, calls, input_list
from qpass.passes.constants import constant_value

_INDEXED = (aten.index.Tensor, aten.index_put.default)


def indices_from_mask(graph_module: fx.GraphModule) -> int:
    """Replaces each constant mask by its positions, one tensor per dim of the mask."""
    applied = 0
    for node in calls(graph_module, *_INDEXED):
        source, _, *rest = node.args
        indices = input_list(node, 1)
        positions = [each for index in indices for each in _positions(graph_module, node, index)]
        if positions != indices:
            node.args = (source, positions, *rest)
            applied += 1
    return applied


def _positions(graph_module: fx.GraphModule, node: fx.Node, index: fx.Node | None) -> list[fx.Node | None]:
    mask = None if index is None else constant_value(graph_module, index)
    if mask is None or mask.dtype not in (torch.bool, torch.uint8):
        return [index]
    return [add_constant(graph_module, f"{node.name}_positions", each, node) for each in mask.nonzero(as_tuple=True)]
