"""Rewrite rules for torch.fx and ONNX: a rule looks at one node, ``Rule.apply`` at all of them.

Rules are plain functions. The libraries' matchers (torch.fx's SubgraphMatcher, onnxscript's
rewriter) compare with a fixed subgraph, while most rules here depend on values, shapes and chains
of any length. Neither library keeps the reason why a subgraph does not match.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

Graph = TypeVar("Graph")
Node = TypeVar("Node")


class Decline(Exception):
    """Raised by a rule that nearly matches a node, with the reason, before it changes anything."""


class NearMatch(NamedTuple):
    """A node that a rule declined.

    Attributes:
        rule: Name of the rule.
        node: Name of the node.
        path: Module path of the node, or '' if it has none.
        reason: Why the rule does not apply.
    """

    rule: str
    node: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule} declined {self.node}{f' in {self.path}' if self.path else ''}: {self.reason}"


@dataclass(frozen=True)
class Outcome:
    """How often a rule applied, and which nodes it declined."""

    count: int
    declined: tuple[NearMatch, ...]


class Rule(ABC, Generic[Graph, Node]):
    """A rewrite of one node, and the operators of the nodes that it may rewrite.

    Args:
        function: The rewrite. It returns what replaces the node, the node itself if it changed it or
            its readers in place, or None if the node is not what the rule looks for.
        operators: Operators that the rule looks at.
    """

    def __init__(self, function: Callable[..., Any], operators: Sequence[Any]) -> None:
        self.function, self.operators = function, operators
        self.name, self.__doc__ = function.__name__, function.__doc__

    def apply(self, graph: Graph) -> Outcome:
        """Applies the rule once to every node that the graph has now, in order of execution."""
        nodes, count, declined = self._candidates(graph), 0, []
        rewrite = self._rewriter(graph) if nodes else None
        for node in nodes:
            assert rewrite is not None
            try:
                count += rewrite(node)
            except Decline as reason:
                declined.append(NearMatch(self.name, *self._place(node), str(reason)))
        return Outcome(count, tuple(declined))

    @abstractmethod
    def _candidates(self, graph: Graph) -> list[Node]:
        """Returns the nodes with the rule's operators."""

    @abstractmethod
    def _rewriter(self, graph: Graph) -> Callable[[Node], bool]:
        """Returns what rewrites a node of this graph and returns whether it did."""

    @abstractmethod
    def _place(self, node: Node) -> tuple[str, str]:
        """Returns a node's name and its module path."""
