"""Rewrite rules for torch.fx graphs: see ``qpass.graph.rewrite``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from qpass.graph.edit import calls, module_path, replace
from qpass.graph.rewrite import Rule


class FxRule(Rule[fx.GraphModule, fx.Node]):
    """A rule for torch.fx: ``function(graph_module, node)``; see ``fx_rule``."""

    def __init__(
        self, function: Callable[..., fx.Node | None], operators: Sequence[Any], prepare: Callable[[fx.GraphModule], Any] | None
    ) -> None:
        super().__init__(function, operators)
        self.prepare = prepare

    def _candidates(self, graph: fx.GraphModule) -> list[fx.Node]:
        if self.operators:
            return list(calls(graph, *self.operators))
        return [node for node in graph.graph.nodes if node.op == "call_function"]

    def _rewriter(self, graph: fx.GraphModule) -> Callable[[fx.Node], bool]:
        known = () if self.prepare is None else (self.prepare(graph),)

        def rewrite(node: fx.Node) -> bool:
            by = self.function(graph, node, *known)
            if by is not None and by is not node:
                replace(node, by)
            return by is not None

        return rewrite

    def _place(self, node: fx.Node) -> tuple[str, str]:
        return node.name, module_path(node)


def fx_rule(
    *operators: Any, prepare: Callable[[fx.GraphModule], Any] | None = None
) -> Callable[[Callable[..., fx.Node | None]], FxRule]:
    """Makes a rule of a function of a graph module and one of its nodes.

    Args:
        operators: Operators that the rule looks at; all function calls if there are none.
        prepare: What the rule must know about the whole graph. It is called once each time that the
            rule is applied, and its result becomes the function's third argument.
    """
    return lambda function: FxRule(function, operators, prepare)
