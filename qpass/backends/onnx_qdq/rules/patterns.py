"""What several rules ask of a value."""

from __future__ import annotations

import onnx_ir as ir


def only_reader_below(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Returns the node that computes ``value``, if it is one of these operators and nothing else reads the value."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type not in op_types or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return node


def scalar(value: ir.Value | None) -> float | None:
    """Returns the number that a constant of one element holds, or None."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(()))
