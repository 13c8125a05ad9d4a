"""How far rounding can move what a graph computes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from qpass.backends.onnxruntime.tolerance import MOVE
from qpass.graph.edit import MOVEMENT_OPS, aten, called_module, is_call
from qpass.quantizers import Quantizer

#: Runs with random signs, each with its opposite: of two opposite moves one crosses a threshold that lies between them.
PAIRS = 4
#: So many more where these do not explain a difference: a choice between two near values is turned by every other pair.
MORE_PAIRS = 16
#: Functions of single values whose error is a share of the result. Others' is a share of 1: erf, tanh and their like.
_RELATIVE = (*MOVEMENT_OPS, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.softmax.int, aten._softmax.default)


class Perturbed(fx.Interpreter):
    """Runs a graph with every float result moved up or down by ``MOVE`` of itself.

    Sums of many terms have every term moved on its own, so results that cancel move as far as rounding moves them.

    Args:
        graph_module: A quantized graph.
        seed: Draws the signs.
        sign: 1.0, or -1.0 for the opposite moves.
        codes: The codes that each quantizer gives; None lets it compute them.
        quantizers: Those before which to stop, in place of the outputs; they need ``codes``.
        reached: Takes the name of each of these quantizers and what it is given.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        seed: int,
        sign: float,
        *,
        codes: Mapping[str, Tensor] | None = None,
        quantizers: Collection[str] = (),
        reached: Callable[[str, Tensor], None] = lambda quantizer, x: None,
    ) -> None:
        super().__init__(graph_module)
        self._codes, self._sign, self._reached = codes, sign, reached
        self._generator = torch.Generator().manual_seed(seed)
        output = next(node for node in graph_module.graph.nodes if node.op == "output")
        self._ends = {
            str(node.target): node.all_input_nodes[0] for node in graph_module.graph.nodes if node.target in quantizers
        }
        ends = self._ends.values() if quantizers else output.all_input_nodes
        self._needed = dict.fromkeys(graph_module.graph.nodes) if codes is None else behind_quantizers(graph_module, ends)

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node, or skips it where no end needs it."""
        result = self._run(n)
        for name in (name for name, end in self._ends.items() if end is n):
            self._reached(name, result)
        return result

    def _run(self, n: fx.Node) -> Any:
        if n.op not in ("placeholder", "output") and n not in self._needed:
            return None
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        is_quantizer = isinstance(module, Quantizer)
        is_given = is_quantizer and self._codes is not None
        result = module.decode(self._codes[str(n.target)]) if is_given else super().run_node(n)  # type: ignore[union-attr,index]
        if n.op in ("get_attr", "output"):
            return result
        floor = None if is_quantizer else self._scale_of_function(n, result)
        return pytree.tree_map(lambda leaf: self._moved(leaf, floor), result)

    def _scale_of_function(self, n: fx.Node, result: Any) -> Tensor | None:
        """Returns what the error of a function of single values is a share of besides its result, up to 1; or None."""
        if n.op != "call_function" or is_call(n, *_RELATIVE) or not isinstance(result, Tensor):
            return None
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if len(tensors) != 1 or tensors[0].shape != result.shape or not tensors[0].is_floating_point():
            return None
        return tensors[0].abs().clamp(max=1.0)

    def _moved(self, leaf: Any, floor: Tensor | None) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        signs = torch.randint(0, 2, leaf.shape, generator=self._generator).to(leaf) * 2 - 1
        moved = leaf + self._sign * MOVE * signs * (leaf.abs() if floor is None else leaf.abs() + floor)
        return torch.where(moved.isfinite(), moved, leaf)


def signed_seeds(seeds: Iterable[int]) -> list[tuple[int, float]]:
    """Returns the arguments of pairs of opposite runs."""
    return [(seed, sign) for seed in seeds for sign in (1.0, -1.0)]


def behind_quantizers(graph_module: fx.GraphModule, ends: Iterable[fx.Node]) -> dict[fx.Node, None]:
    """Returns these nodes and those that they are computed by, back to the quantizers and with them."""
    found, waiting = dict[fx.Node, None](), list(ends)
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found[node] = None
        is_quantizer = isinstance(called_module(graph_module, node), Quantizer)
        waiting += [] if is_quantizer else node.all_input_nodes
    return found
