"""What torch computes from a graph: every quantizer's codes, the same in float64, and how uncertain the outputs are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from qpass.data import ModelInputs
from qpass.graph import flat_inputs
from qpass.quantizers import Quantizer

#: Ties fall up together, down together (equal values do), and three times at random: they cascade by chance.
_MOVES = (1.0, -1.0, None, None, None)


class TorchRun:
    """One run of a graph, with what lies before and behind each of its quantizers.

    Args:
        graph_module: A quantized graph.
        inputs: One call of it.

    Attributes:
        quantizers: The quantizers by name, in the order in which they are called.
        inputs: What each of them was given, in float32.
        codes: What each of them made of that.
        exact: What each of them is given in float64, from the same codes before.
        outputs: The outputs, in float32.
    """

    def __init__(self, graph_module: fx.GraphModule, inputs: ModelInputs) -> None:
        recorder = _Recorder(graph_module)
        with torch.no_grad():
            self.outputs = leaves(recorder.run(*flat_inputs(graph_module, *inputs)))
            self.quantizers, self.inputs, self.codes = recorder.quantizers, recorder.inputs, recorder.codes
            double = _ForcedDouble(graph_module, self.codes)
            double.run(*flat_inputs(double.graph_module, *_double(inputs)))
            self.exact = double.inputs

    @property
    def size(self) -> float:
        """The norm of the outputs."""
        return math.sqrt(sum(float(np.square(output, dtype=np.float64).sum()) for output in self.outputs))


def uncertainty(graph_module: fx.GraphModule, inputs: ModelInputs, outputs: Sequence[np.ndarray], *, tie: float) -> float:
    """Returns the greatest distance of torch's float32 outputs to float64, and to float32 with ties falling otherwise.

    Args:
        graph_module: A quantized graph.
        inputs: One call of it.
        outputs: What it returns in float32.
        tie: The input of every quantizer is moved by up to this share of its greatest magnitude.
    """
    double = _double(inputs)
    with torch.no_grad():
        exact = leaves(_in_float64(graph_module)(*double.args, **double.kwargs))
        distances = [distance(outputs, exact)]
        for seed, move in enumerate(_MOVES):
            other = _MovedTies(graph_module, tie, move, seed).run(*flat_inputs(graph_module, *inputs))
            distances.append(distance(outputs, leaves(other)))
    return max(distances)


def leaves(tree: Any) -> list[np.ndarray]:
    """Returns the tensors of a tree as arrays."""
    return [leaf.detach().cpu().numpy() for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def distance(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Returns the norm of the difference of two lists of arrays."""
    return math.sqrt(sum(float(np.square(x.astype(np.float64) - y).sum()) for x, y in zip(a, b, strict=True)))


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the input and the codes of every quantizer."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.inputs: dict[str, Tensor] = {}
        self.codes: dict[str, Tensor] = {}
        self.quantizers: dict[str, Quantizer] = {}

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(str(target))
        if isinstance(module, Quantizer):
            self.inputs[str(target)], self.codes[str(target)] = args[0], module.encode(args[0])
            self.quantizers[str(target)] = module
        return super().call_module(target, args, kwargs)


class _ForcedDouble(fx.Interpreter):
    """Runs a graph in float64 with the codes of the float32 run, and keeps the input of every quantizer."""

    def __init__(self, graph_module: fx.GraphModule, codes: dict[str, Tensor]) -> None:
        self.graph_module = _in_float64(graph_module)
        super().__init__(self.graph_module)
        self._codes, self.inputs = codes, dict[str, Tensor]()

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(str(target))
        if not isinstance(module, Quantizer):
            return super().call_module(target, args, kwargs)
        self.inputs[str(target)] = args[0]
        return module.decode(self._codes[str(target)])


class _MovedTies(fx.Interpreter):
    """Runs a graph with the input of every quantizer moved by a share of its greatest magnitude, or at random."""

    def __init__(self, graph_module: fx.GraphModule, tie: float, move: float | None, seed: int) -> None:
        super().__init__(graph_module)
        self._tie, self._move, self._generator = tie, move, torch.Generator().manual_seed(seed)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(self.fetch_attr(str(target)), Quantizer):
            (x,) = args
            move = torch.rand(x.shape, generator=self._generator) * 2 - 1 if self._move is None else self._move
            args = (x + move * self._tie * x.abs().amax(),)
        return super().call_module(target, args, kwargs)


def _in_float64(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy that computes in float64 throughout: what it casts to float32 it casts to float64."""
    double = copy.deepcopy(graph_module).double()
    widen = lambda value: torch.float64 if value is torch.float32 else value  # noqa: E731
    for node in double.graph.nodes:
        node.args, node.kwargs = map_aggregate(node.args, widen), map_aggregate(node.kwargs, widen)
    double.recompile()
    return double


def _double(inputs: ModelInputs) -> ModelInputs:
    return _map_floats(inputs, lambda t: t.double())


def _map_floats(inputs: ModelInputs, function: Callable[[Tensor], Tensor]) -> ModelInputs:
    apply = lambda leaf: function(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf  # noqa: E731
    return ModelInputs(*pytree.tree_map(apply, tuple(inputs)))
