"""What torch makes of a graph: its codes and outputs, what these are in float64, and how far torch itself is uncertain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from qpass.backends.onnxruntime.perturbed import PAIRS, Perturbed
from qpass.backends.onnxruntime.tolerance import differences, envelope, kinds
from qpass.data import ModelInputs
from qpass.graph import flat_inputs
from qpass.quantizers import Quantizer

#: Ties fall up together, down together (equal values do), and three times at random: they cascade by chance.
_MOVES = (1.0, -1.0, None, None, None)
#: Makes codes of an input in place of its quantizer.
Encode = Callable[[Quantizer, Tensor], Tensor]
#: What torch's own error counts for in a bound: the other implementation has errors of its own.
FLOAT32_ERRORS = 2.0


class TorchRun:
    """One run of a graph, with what lies before and behind each of its quantizers.

    Args:
        graph_module: A quantized graph.
        inputs: One call of it.
        wide: ``widened(graph_module)``, where there is one already.
        encode: Returns the codes that a quantizer gives for an input; None lets it compute them.

    Attributes:
        quantizers: The quantizers by name, in the order in which they are called.
        inputs: What each of them was given, in float32.
        codes: What each of them gave.
        exact: What each of them is given in float64, from the same codes before.
        outputs: The outputs, in float32.
        exact_outputs: The outputs in float64, from the same codes.
        bounds: For each output how far float32 may move it from ``outputs``, value by value, all quantizers having the same
            codes; of a shape that broadcasts to the output's. Infinite where rounding decides between quite different values.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        inputs: ModelInputs,
        *,
        wide: fx.GraphModule | None = None,
        encode: Encode | None = None,
    ) -> None:
        self._graph_module, self._given = graph_module, inputs
        recorder = _Recorder(graph_module, encode)
        with torch.no_grad():
            flat = flat_inputs(graph_module, *inputs)
            self.outputs = leaves(recorder.run(*flat))
            self.quantizers, self.inputs, self.codes = recorder.quantizers, recorder.inputs, recorder.codes
            with float64_by_default():
                double = _ForcedDouble(widened(graph_module) if wide is None else wide, self.codes)
                self.exact_outputs = leaves(double.run(*flat_inputs(graph_module, *_double(inputs))))
            self.exact = double.inputs
            moved = [
                leaves(Perturbed(graph_module, self.codes, seed, sign).run(*flat))
                for seed in range(PAIRS)
                for sign in (1.0, -1.0)
            ]
        self.bounds = [_bound(*each) for each in zip(self.outputs, self.exact_outputs, zip(*moved, strict=True), strict=True)]

    def moved_inputs(self, quantizers: Collection[str]) -> dict[str, list[Tensor]]:
        """Returns what rounding can make of the inputs of some quantizers, all before them giving the same codes."""
        found: dict[str, list[Tensor]] = {name: [] for name in quantizers}
        flat = flat_inputs(self._graph_module, *self._given)
        for seed in range(PAIRS):
            for sign in (1.0, -1.0):
                run = Perturbed(self._graph_module, self.codes, seed, sign, quantizers)
                with torch.no_grad():
                    run.run(*flat)
                for name, x in run.inputs.items():
                    found[name].append(x)
        return found


def _bound(output: np.ndarray, exact: np.ndarray, moved: Sequence[np.ndarray]) -> Tensor:
    """Returns the bound of one output: see ``TorchRun.bounds``."""
    if any(other.shape != output.shape for other in (exact, *moved)):
        return torch.full(output.shape, torch.inf, dtype=torch.float64)
    x = torch.from_numpy(output)
    farthest = torch.stack([differences(torch.from_numpy(other), x) for other in moved]).amax(0)
    own = differences(torch.from_numpy(exact), x)
    if not x.is_floating_point():  # equal, or undecided
        return torch.where((farthest > 0) | (own > 0), torch.inf, 0.0).double()
    return envelope(farthest + FLOAT32_ERRORS * own)


@dataclass(frozen=True)
class Uncertainty:
    """How far torch is from itself in one output: in float64, and with ties falling up, down and at random.

    Attributes:
        distance: The greatest norm of a difference, over the values that are finite in both.
        misplaced: The greatest count of values of another kind (finite, NaN, infinite).
        nan: Whether any run gives NaN.
    """

    distance: float
    misplaced: int
    nan: bool


def uncertainty(
    graph_module: fx.GraphModule,
    inputs: ModelInputs,
    outputs: Sequence[np.ndarray],
    *,
    tie: float,
    wide: fx.GraphModule | None = None,
) -> list[Uncertainty]:
    """Returns how far torch's float32 outputs are from float64, and from float32 with ties falling otherwise.

    Args:
        graph_module: A quantized graph.
        inputs: One call of it.
        outputs: What it returns in float32.
        tie: The input of every quantizer is moved by up to this share of its greatest magnitude.
        wide: ``widened(graph_module)``, where there is one already.
    """
    double = _double(inputs)
    with torch.no_grad():
        wide = widened(graph_module) if wide is None else wide
        with float64_by_default():
            runs = [leaves(wide(*double.args, **double.kwargs))]
        for seed, move in enumerate(_MOVES):
            runs.append(leaves(_MovedTies(graph_module, tie, move, seed).run(*flat_inputs(graph_module, *inputs))))
    return [_uncertainty(output, others) for output, others in zip(outputs, zip(*runs, strict=True), strict=True)]


def _uncertainty(output: np.ndarray, others: Sequence[np.ndarray]) -> Uncertainty:
    return Uncertainty(
        max(distance(other, output) for other in others),
        max(misplaced(other, output) for other in others),
        any(bool(np.isnan(other).any()) for other in (output, *others)),
    )


def leaves(tree: Any) -> list[np.ndarray]:
    """Returns the tensors of a tree as arrays; a file has no outputs that are numbers."""
    return [leaf.detach().cpu().numpy() for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the norm of the difference over values that are finite in both; infinity for other shapes."""
    if a.shape != b.shape:
        return float("inf")
    difference = differences(torch.from_numpy(a), torch.from_numpy(b))
    return float(torch.linalg.vector_norm(difference[difference.isfinite()]))


def size(a: np.ndarray) -> float:
    """Returns the norm over finite values."""
    return distance(a, np.where(np.isfinite(a), 0, a))


def misplaced(a: np.ndarray, b: np.ndarray) -> int:
    """Returns how many values are finite, NaN or infinite in one and not in the other."""
    if a.shape != b.shape:
        return max(a.size, b.size)
    return int((kinds(torch.from_numpy(a)) != kinds(torch.from_numpy(b))).sum())


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the input and the codes of every quantizer."""

    def __init__(self, graph_module: fx.GraphModule, encode: Encode | None) -> None:
        super().__init__(graph_module)
        self._encode = encode
        self.inputs: dict[str, Tensor] = {}
        self.codes: dict[str, Tensor] = {}
        self.quantizers: dict[str, Quantizer] = {}

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module, name = self.fetch_attr(str(target)), str(target)
        if not isinstance(module, Quantizer):
            return super().call_module(target, args, kwargs)
        self.quantizers[name], self.inputs[name] = module, args[0]
        self.codes[name] = module.encode(args[0]) if self._encode is None else self._encode(module, args[0])
        return module.decode(self.codes[name])


class _ForcedDouble(fx.Interpreter):
    """Runs a graph of ``widened`` with the codes of the float32 run, and keeps the input of every quantizer."""

    def __init__(self, wide: fx.GraphModule, codes: dict[str, Tensor]) -> None:
        super().__init__(wide)
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


def widened(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy that computes in float64 throughout, to be run in ``float64_by_default``.

    What the graph casts to float32 it casts to float64.
    """
    double = copy.deepcopy(graph_module).double()
    widen = lambda value: torch.float64 if value is torch.float32 else value  # noqa: E731
    for module in double.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.args, node.kwargs = map_aggregate(node.args, widen), map_aggregate(node.kwargs, widen)
            module.recompile()
    return double


@contextmanager
def float64_by_default() -> Iterator[None]:
    """Makes float64 what a graph computes without a type: ``torch.zeros(n)``, the quotient of two integers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _double(inputs: ModelInputs) -> ModelInputs:
    return _map_floats(inputs, lambda t: t.double())


def _map_floats(inputs: ModelInputs, function: Callable[[Tensor], Tensor]) -> ModelInputs:
    apply = lambda leaf: function(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf  # noqa: E731
    return ModelInputs(*pytree.tree_map(apply, tuple(inputs)))
