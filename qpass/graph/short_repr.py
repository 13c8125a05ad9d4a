"""What notebooks show of a quantized graph: its report, or one line. ``print`` shows the code."""

from __future__ import annotations

from typing import Any

from torch import fx

from qpass.graph.facts import facts_of, recipe_of


def shorten_repr(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Gives a frozen graph a one-line ``repr``, and its report as what notebooks show. Returns it.

    torch.fx makes a class for each graph.
    """
    kind: Any = type(graph_module)
    kind.__repr__, kind._repr_html_ = _one_line, _report
    return graph_module


def _one_line(graph_module: fx.GraphModule) -> str:
    name, count = type(graph_module).__name__, len(graph_module.graph.nodes)
    return f"<{name}: graph quantized as {recipe_of(graph_module).name}, {count} nodes; print it to see its code>"


def _report(graph_module: fx.GraphModule) -> str | None:
    report = facts_of(graph_module).report
    return None if report is None else str(report._repr_html_())
