"""Cuts a graph at the outputs of its transformer blocks into consecutive graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from qpass.graph.edit import is_inside, module_path
from qpass.passes.analysis.blocks import find_blocks
from qpass.passes.constants import constant_nodes

#: Paths of the parts outside the blocks, if they are learned too.
BEFORE_BLOCKS, AFTER_BLOCKS = "before the blocks", "after the blocks"


@dataclass(frozen=True)
class Segment:
    """Part of a graph between two cuts. Its graph module shares the whole graph's modules and tensors.

    Attributes:
        path: Module path of the block; "" for the parts before the first and after the last block, or
            ``BEFORE_BLOCKS`` and ``AFTER_BLOCKS``.
        graph_module: Takes the values of ``inputs`` and returns a tuple of the values of ``outputs``.
        inputs: Nodes of the whole graph that the segment reads.
        outputs: Nodes of the whole graph that later nodes read; the block's output is the last.
    """

    path: str
    graph_module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def is_end(self) -> bool:
        """Whether it is the part before the first block or after the last."""
        return self.path in (BEFORE_BLOCKS, AFTER_BLOCKS)


def cut_into_segments(graph_module: fx.GraphModule) -> list[Segment]:
    """Returns one segment per block, in order, preceded by one for the nodes before the first block.

    Nodes after the last block are left out. Nodes that depend on no layer go into the first segment
    wherever they are, so that point sampling and neighbour search are not repeated in every learning
    step. Returns [] for a graph without blocks.
    """
    return [segment for segment, _ in _cuts(graph_module)]


def cut_after_segments(graph_module: fx.GraphModule) -> list[Segment]:
    """Returns what follows each segment of ``cut_into_segments``: all nodes up to the network's outputs.

    The outputs are the network's, including those that an earlier segment computes.
    """
    return [_rest(graph_module, nodes, "") for _, nodes in _cuts(graph_module)]


def cut_with_ends(graph_module: fx.GraphModule) -> list[Segment]:
    """Returns the segments with paths for both ends, including one for the nodes after the last block."""
    cuts = _cuts(graph_module)
    segments = [segment if segment.path else dataclasses.replace(segment, path=BEFORE_BLOCKS) for segment, _ in cuts]
    return [*segments, _rest(graph_module, cuts[-1][1], AFTER_BLOCKS)]


def _cuts(graph_module: fx.GraphModule) -> list[tuple[Segment, Sequence[fx.Node]]]:
    """Returns the segments, each with the nodes after it."""
    ends = find_blocks(graph_module)
    nodes = _without_layers_first(graph_module)
    position = {node: index for index, node in enumerate(nodes)}
    order = sorted(ends.items(), key=lambda item: position[item[1]])
    if not order:
        return []
    constants = constant_nodes(graph_module)
    starts = [0, _block_start(nodes, order[0][0], constants), *(position[end] + 1 for _, end in order)]
    parts = zip(["", *(path for path, _ in order)], starts, starts[1:], strict=False)
    found = [(_segment(graph_module, path, nodes[start:stop], constants), nodes[stop:]) for path, start, stop in parts]
    return [(segment, rest) for segment, rest in found if segment.outputs]


def _without_layers_first(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Returns all nodes, with those that depend on no layer or quantizer first; otherwise in order."""
    behind_layers: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if node.op == "call_module" or not behind_layers.isdisjoint(node.all_input_nodes):
            behind_layers.add(node)
    return sorted(graph_module.graph.nodes, key=lambda node: node in behind_layers)


def _block_start(nodes: Sequence[fx.Node], path: str, constants: set[fx.Node]) -> int:
    """Returns the start of the first block: after the last outside node before its first layer.

    A block that rules leave in float has no layer of its own and starts at its first operator.
    """
    own = [index for index, node in enumerate(nodes) if is_inside(module_path(node), path) and node not in constants]
    first = next((index for index in own if nodes[index].op == "call_module"), own[0])
    while first > 0 and (is_inside(module_path(nodes[first - 1]), path) or nodes[first - 1] in constants):
        first -= 1
    return first


def _segment(
    whole: fx.GraphModule,
    path: str,
    nodes: Sequence[fx.Node],
    constants: set[fx.Node],
    outputs: Sequence[fx.Node] | None = None,
) -> Segment:
    """Returns a segment of these nodes. Its outputs default to the values that other nodes read."""
    graph, inside = fx.Graph(), set(nodes)
    copies: dict[fx.Node, fx.Node] = {}
    inputs: list[fx.Node] = []
    body = [node for node in nodes if node.op not in ("placeholder", "output") and node not in constants]
    for read in (read for nodes_read in (*(node.all_input_nodes for node in body), outputs or ()) for read in nodes_read):
        outside = read not in inside or read.op == "placeholder"
        if read not in constants and outside and read not in copies:
            inputs.append(read)
            copies[read] = graph.placeholder(read.name)

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:  # a constant from anywhere in the whole graph, with everything it is computed from
            copies[node] = graph.node_copy(node, copy)
        return copies[node]

    for node in body:
        copy(node)
    if outputs is None:
        outputs = [node for node in body if any(user not in inside for user in node.users)]
    graph.output(tuple(copy(node) for node in outputs))
    return Segment(path, fx.GraphModule(whole, graph), _names(inputs), _names(outputs))


def _rest(whole: fx.GraphModule, nodes: Sequence[fx.Node], path: str) -> Segment:
    """Returns a segment of the last nodes; its outputs are the network's."""
    (output,) = (node for node in nodes if node.op == "output")
    return _segment(whole, path, nodes, constant_nodes(whole), output.all_input_nodes)


def _names(nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes)
