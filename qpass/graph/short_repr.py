"""A short ``repr`` for quantized graphs, which notebooks show; ``print`` shows the code as before."""

from __future__ import annotations

from torch import fx

from qpass.graph.facts import recipe_of


def shorten_repr(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Gives a frozen graph a one-line ``repr``, and returns it. torch.fx makes a class for each graph."""
    type(graph_module).__repr__ = _one_line  # type: ignore[assignment, method-assign]
    return graph_module


def _one_line(graph_module: fx.GraphModule) -> str:
    name, count = type(graph_module).__name__, len(graph_module.graph.nodes)
    return f"<{name}: graph quantized as {recipe_of(graph_module).name}, {count} nodes; print it to see its code>"
