"""f(constants) -> constant, if that takes no more space: joined biases, computed weights, numbers.

A result larger than its parts, such as a per-window mask or a per-head bias, stays as operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from qpass.graph.edit import add_constant
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline
from qpass.passes.constants import constant_values
from qpass.passes.rules.constant_forms import kept_operators

#: Larger results are not stored, since they would grow the file.
MAX_ELEMENTS = 2**24


@dataclass(frozen=True)
class _Constants:
    """The values of all constant nodes, and the operators among them that stay."""

    values: Mapping[fx.Node, Any]
    kept: Set[fx.Node]

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> _Constants:
        values = constant_values(graph_module)
        return cls(values, kept_operators(values))

    def folds(self, node: fx.Node) -> bool:
        return node in self.values and node not in self.kept


@fx_rule(prepare=_Constants.of)
def fold_constants(graph_module: fx.GraphModule, node: fx.Node, constants: _Constants) -> fx.Node | None:
    """Evaluates a call that depends on constants alone, unless it is smaller than its output."""
    if not constants.folds(node) or all(constants.folds(user) for user in node.users):
        return None  # only where a node that stays reads it
    value = constants.values[node]
    if isinstance(value, Tensor):
        if value.numel() > MAX_ELEMENTS:
            raise Decline(f"it would store {value.numel()} elements, more than {MAX_ELEMENTS}")
        return add_constant(graph_module, f"{node.name}_folded", value, node)
    if isinstance(value, (bool, int, float)):
        _write_out(node, value)
        return node
    return None


def _write_out(node: fx.Node, value: bool | int | float) -> None:
    """Replaces a node by a number in the arguments of its readers."""
    for user in list(node.users):
        args, kwargs = fx.node.map_arg((user.args, dict(user.kwargs)), lambda source: value if source is node else source)
        user.args, user.kwargs = args, kwargs
