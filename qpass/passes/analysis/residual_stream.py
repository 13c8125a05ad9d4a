"""Finds a residual stream: tensors connected by additions and data movement, its writers and readers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from qpass.graph.edit import COPIES, RESHAPES, TRANSPOSES, argument, aten, describe, get_constant, input_list, is_call, shape_of
from qpass.passes.analysis.channels import moved
from qpass.passes.analysis.layer_weights import LayerWeights
from qpass.passes.constants import constant_nodes

_SUMS = (aten.add.Tensor, aten.sub.Tensor)
_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
#: Other operators that move or repeat whole tokens.
_TOKEN_MOVES = (aten.select.int, aten.slice.Tensor, aten.roll.default, aten.pad.default)
#: Marks elements that padding adds.
_PADDED = -1


class NotAStream(Exception):
    """Why channels cannot be rotated; nothing was changed."""


class ResidualStream:
    """The residual stream that a LayerNorm reads.

    Args:
        graph_module: The graph.
        norm: A LayerNorm.
        weights: Reads the weights of the adjacent layers.

    Attributes:
        first: The LayerNorm.
        width: Channels of the stream. Where tokens are merged, as between the stages of a Swin,
            tensors have a multiple of it.
        norms: LayerNorms that read it, with the Linears after each.
        readers: Linears that read those LayerNorms or the stream itself.
        writers: Linears and convolutions whose output is added to it.
        constants: Constants added or concatenated to it, with the stream's nodes that read them.
    """

    def __init__(self, graph_module: fx.GraphModule, norm: fx.Node, weights: LayerWeights) -> None:
        self._graph_module, self._weights = graph_module, weights
        self.first = norm
        self.norms: dict[fx.Node, list[fx.Node]] = {}
        self.readers: list[fx.Node] = []
        self.writers: list[fx.Node] = []
        self.constants: dict[fx.Node, list[fx.Node]] = {}
        self.width: int = input_list(norm, 1)[-1]
        self._values: set[fx.Node] = set()
        self._constants = constant_nodes(graph_module)
        self._problem = ""
        self._collect(norm.args[0])

    def check(self) -> None:
        """Rejects a stream whose channels cannot be rotated.

        Raises:
            NotAStream: With the reason.
        """
        if self._problem:
            raise NotAStream(self._problem)
        unknown = [layer for layer in (*self.readers, *self.writers) if not self._weights.read(layer)]
        if unknown:
            raise NotAStream(f"the weight of {describe(unknown[0])} is not a constant")
        for norm in self.norms:
            given = [argument(norm, index, name) for index, name in ((2, "weight"), (3, "bias"))]
            if any(node is not None and get_constant(self._graph_module, node) is None for node in given):
                raise NotAStream(f"the weight of {describe(norm)} is not a constant")

    def _collect(self, start: Any) -> None:
        """Follows the stream both ways. Problems are recorded, not raised, so that all LayerNorms are found."""
        pending = [start]
        while pending:
            value = pending.pop()
            if value not in self._values:
                self._values.add(value)
                pending += [*self._sources(value), *self._goes_on(value)]

    def _decline(self, problem: str) -> None:
        self._problem = self._problem or problem

    def _sources(self, value: fx.Node) -> list[fx.Node]:
        """Returns the stream's tensors that a tensor is computed from. The stream ends at layers, its writers."""
        if is_call(value, aten.linear.default):
            self.writers.append(value)
            return []
        if (convolution := _patches(value)) is not None:
            self.writers.append(convolution)
            return []
        if is_call(value, *_SUMS):
            operands = [operand for operand in value.args[:2] if isinstance(operand, fx.Node)]
        elif self._moves_tokens(value):
            operands = list(value.args[0]) if is_call(value, aten.cat.default) else [value.args[0]]  # type: ignore[arg-type,list-item]
        else:
            self._decline(f"it is computed by {_name(value)}")
            return []
        constants = [operand for operand in operands if operand in self._constants]
        for constant in constants:
            self.constants.setdefault(constant, []).append(value)
        if any((shape_of(operand) or (1,))[-1] % self.width for operand in operands):
            self._decline(f"{_name(value)} spreads a tensor over channels")
        return [operand for operand in operands if operand not in constants]

    def _goes_on(self, value: fx.Node) -> list[fx.Node]:
        """Returns the stream's tensors that read a tensor. It ends at LayerNorms and Linears, its readers."""
        found = []
        for user in value.users:
            if is_call(user, aten.layer_norm.default) and len(input_list(user, 1)) == 1:
                self.norms[user] = self._linears_behind(user)
            elif is_call(user, aten.linear.default) and user.args[0] is value:
                self.readers.append(user)
            elif is_call(user, *_SUMS) or self._moves_tokens(user):
                found.append(user)
            elif not is_call(user, aten.sym_size.int):
                self._decline(f"{_name(user)} reads it")
        return found

    def _linears_behind(self, norm: fx.Node) -> list[fx.Node]:
        """Returns the Linears that read a LayerNorm's output, possibly moved. Nothing else may read it."""
        linears, pending = [], [norm]
        while pending:
            value = pending.pop()
            for user in value.users:
                if is_call(user, aten.linear.default) and user.args[0] is value:
                    linears.append(user)
                elif self._moves_tokens(user) and not is_call(user, aten.cat.default) and shape_of(user)[-1] == norm.args[1][0]:  # type: ignore[index]
                    pending.append(user)
                elif not is_call(user, aten.sym_size.int):
                    self._decline(f"{_name(user)} reads a LayerNorm's output")
        self.readers += linears
        return linears

    def _moves_tokens(self, node: fx.Node) -> bool:
        """Returns whether an operator moves, joins or averages tokens, keeping each one's channels in order."""
        shape = shape_of(node)
        if not shape or shape[-1] % self.width:
            return False
        last = {len(shape) - 1, -1}
        if is_call(node, aten.cat.default):
            return argument(node, 1, "dim", 0) not in last
        if is_call(node, aten.mean.dim):
            before = len(shape_of(node.args[0]) or ())
            return bool(node.args[1]) and not {before - 1, -1} & set(node.args[1])  # type: ignore[arg-type]
        source = shape_of(node.args[0]) if node.args else None
        if source is None or source[-1] % self.width:
            return False
        channels = _moved(node, torch.arange(torch.Size(source).numel()).reshape(source))
        if channels is None:
            return False
        groups = channels.reshape(-1, self.width)
        in_order = groups == groups[:, :1] + torch.arange(self.width)
        return bool(((groups[:, :1] % self.width == 0) & in_order | (groups == _PADDED)).all())


def _moved(node: fx.Node, elements: torch.Tensor) -> torch.Tensor | None:
    """Returns the elements as a movement operator moves them, or None for other operators."""
    shape = shape_of(node)
    assert shape is not None
    if is_call(node, aten.expand.default):
        return elements.expand(shape)
    if not is_call(node, *_TOKEN_MOVES):
        return moved(node, elements)
    if node.all_input_nodes[1:]:  # a dynamic size
        return None
    if is_call(node, aten.pad.default):
        return None if any(node.args[2:]) else aten.pad.default(elements, node.args[1], "constant", _PADDED)
    return node.target(elements, *node.args[1:])  # type: ignore[operator]


def _patches(value: fx.Node) -> fx.Node | None:
    """Returns the convolution whose output channels are a tensor's last dim, or None.

    Channels of different groups read different inputs, so a grouped convolution cannot absorb a
    rotation.
    """
    path = []
    while is_call(value, *RESHAPES, *TRANSPOSES, *COPIES) and len(_readers(value.args[0])) == 1:  # type: ignore[arg-type]
        path.append(value)
        value = value.args[0]  # type: ignore[assignment]
    shape = shape_of(value)
    if not path or not shape or not is_call(value, *_CONVOLUTIONS) or argument(value, 6, "groups", 1) != 1:
        return None
    elements = torch.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)
    for node in reversed(path):
        elements = _moved(node, elements)  # type: ignore[assignment]
    return value if torch.equal(elements, torch.arange(shape[1]).expand(elements.shape)) else None


def _readers(value: fx.Node) -> list[fx.Node]:
    return [user for user in value.users if not is_call(user, aten.sym_size.int)]


def _name(node: fx.Node) -> str:
    """Returns the operator and its location."""
    operator = "the model's output" if node.op == "output" else str(node.target).removeprefix("aten.").split(".")[0]
    return operator if node.op == "output" else f"{operator} ({describe(node)})"
