"""clamp(x, 0, 1.5) -> clamp(x, 0.0, 1.5): both bounds are floats if one is.

torch's exporter makes a whole number beside a float a tensor, and then finds no such operator.
"""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import argument, aten, call_like
from qpass.graph.fx_rule import fx_rule


@fx_rule(aten.clamp.default)
def float_bounds(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Gives both bounds of a clamp the same type."""
    bounds = [argument(node, 1, "min"), argument(node, 2, "max")]
    if {type(bound) for bound in bounds} != {int, float}:
        return None
    return call_like(graph_module, node, aten.clamp.default, argument(node, 0, "self"), *map(float, bounds))
