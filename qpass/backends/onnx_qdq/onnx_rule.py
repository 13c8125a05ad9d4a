"""Rewrite rules for ONNX graphs: see ``qpass.graph.rewrite``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.graph.rewrite import Rule


class OnnxRule(Rule[ir.Graph, ir.Node]):
    """A rule for ONNX: ``function(node, emit)``, where ``emit`` builds what replaces ``node``."""

    def __init__(self, function: Callable[[ir.Node, Emitter], ir.Value | None], operators: Sequence[str], suffix: str) -> None:
        super().__init__(function, operators)
        self.suffix = suffix

    def _candidates(self, graph: ir.Graph) -> list[ir.Node]:
        return [node for node in graph if node.op_type in self.operators]

    def _rewriter(self, graph: ir.Graph) -> Callable[[ir.Node], bool]:
        def rewrite(node: ir.Node) -> bool:
            emit = Emitter(graph, ".".join(filter(None, (node.outputs[0].name, self.suffix))))
            by = self.function(node, emit)
            if by is not None:
                emit.replace(node, by)
            return by is not None

        return rewrite

    def _place(self, node: ir.Node) -> tuple[str, str]:
        return node.name or node.outputs[0].name, ""


def onnx_rule(*operators: str, suffix: str = "") -> Callable[[Callable[[ir.Node, Emitter], ir.Value | None]], OnnxRule]:
    """Makes a rule of a function of a node and an ``Emitter`` that returns the node's new output.

    Args:
        operators: Operator types that the rule looks at.
        suffix: Suffix of the names of what the rule adds, after the name of the node's output.
    """
    return lambda function: OnnxRule(function, operators, suffix)
