"""How far rounding can move the results of a graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from qpass.backends.onnxruntime.tolerance import MOVE
from qpass.graph.edit import MOVEMENT_OPS, aten, called_module, is_call
from qpass.quantizers import Quantizer

#: Pairs of runs with random, opposite signs: one of two opposite moves crosses a threshold between
#: them.
PAIRS = 4
#: Additional pairs if those do not explain a difference: about every other pair flips a choice
#: between two close values.
MORE_PAIRS = 16
#: Functions whose error is relative to the result. That of others, such as erf and tanh, is
#: relative to 1.
_RELATIVE = (*MOVEMENT_OPS, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.softmax.int, aten._softmax.default)


class Perturbed(fx.Interpreter):
    """Runs a graph with every float result moved up or down by ``MOVE`` times itself.

    Each term of a sum moves independently, so results that cancel move as far as rounding moves
    them.

    Args:
        graph_module: A quantized graph.
        seed: Seed of the random signs.
        sign: 1.0, or -1.0 for the opposite moves.
        codes: Codes of each quantizer; None lets it compute them.
        quantizers: Quantizers to stop at, instead of the outputs; requires ``codes``.
        reached: Called with the name and the input of each of these quantizers.
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
        """Runs one node, or skips it if no end needs it."""
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
        """Returns an elementwise function's input magnitude, up to 1; None for other operators.

        The error is relative to this plus the result's magnitude.
        """
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
    """Returns (seed, sign) for pairs of opposite runs."""
    return [(seed, sign) for seed in seeds for sign in (1.0, -1.0)]


def behind_quantizers(graph_module: fx.GraphModule, ends: Iterable[fx.Node]) -> dict[fx.Node, None]:
    """Returns these nodes and their ancestors, back to and including the nearest quantizers."""
    found, waiting = dict[fx.Node, None](), list(ends)
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found[node] = None
        is_quantizer = isinstance(called_module(graph_module, node), Quantizer)
        waiting += [] if is_quantizer else node.all_input_nodes
    return found
