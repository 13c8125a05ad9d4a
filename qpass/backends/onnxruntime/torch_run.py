"""Torch's codes and outputs of a graph, their float64 values, and how far rounding can move them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

from qpass.backends.onnxruntime.perturbed import MORE_PAIRS, PAIRS, Perturbed, signed_seeds
from qpass.backends.onnxruntime.tolerance import differences, envelope, kinds
from qpass.data import ModelInputs
from qpass.graph.edit import flat_inputs
from qpass.graph.fill_values import fill_values
from qpass.graph.signature.input_check import without_input_check
from qpass.quantizers import Quantizer
from qpass.runtime.storage import SpilledTensors, Storage

#: Encodes an input in place of its quantizer.
Encode = Callable[[Quantizer, Tensor], Tensor]
#: Factor of torch's own error in a bound: the other implementation has errors of its own.
FLOAT32_ERRORS = 2.0


class Reach(NamedTuple):
    """Limits between which rounding can move each value of a tensor."""

    low: Tensor
    high: Tensor


class TorchRun:
    """One run of a graph, with the input and the codes of each quantizer.

    Args:
        graph_module: A quantized graph.
        inputs: Inputs of one call.
        wide: ``widened(graph_module)``, if there is one already.
        encode: Returns a quantizer's codes for an input; None lets the quantizer compute them.
        storage: Keeps the inputs of quantizers; None keeps them in memory.

    Attributes:
        given: Inputs of the call.
        quantizers: The quantizers by name, in execution order.
        inputs: Input of each quantizer, in float32.
        codes: Codes of each quantizer.
        exact: Input of each quantizer in float64, from the same earlier codes.
        outputs: The outputs, in float32.
        exact_outputs: The outputs in float64, from the same codes.
        bounds: For each output, how far float32 may move each value from ``outputs``, given the
            same codes at all quantizers; broadcasts to the output's shape. Infinite where rounding
            decides between very different values.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        inputs: ModelInputs,
        *,
        wide: fx.GraphModule | None = None,
        encode: Encode | None = None,
        storage: Storage | None = None,
    ) -> None:
        self._graph_module, self.given = graph_module, inputs
        recorder = _Recorder(graph_module, encode, SpilledTensors(storage))
        with torch.no_grad():
            flat = flat_inputs(graph_module, *inputs)
            self.outputs = leaves(recorder.run(*flat))
            self.quantizers, self.inputs, self.codes = recorder.quantizers, recorder.inputs, recorder.codes
            double = _ForcedDouble(widened(graph_module) if wide is None else wide, self.codes, SpilledTensors(storage))
            with Float64ByDefault():
                self.exact_outputs = leaves(double.run(*flat_inputs(graph_module, *in_float64(inputs))))
            self.exact = double.inputs
        self._tried, self._low, self._high = dict[str, int](), SpilledTensors(storage), SpilledTensors(storage)
        self._moved = self._moved_outputs(range(PAIRS))
        self.bounds = self._bounds()

    def look_closer(self) -> None:
        """Widens ``bounds`` with more runs: about every other pair flips a choice between close values."""
        if len(self._moved) == 2 * PAIRS:
            self._moved += self._moved_outputs(range(PAIRS, PAIRS + MORE_PAIRS))
            self.bounds = self._bounds()

    def _moved_outputs(self, seeds: range) -> list[list[np.ndarray]]:
        flat = flat_inputs(self._graph_module, *self.given)
        with torch.no_grad():
            return [leaves(Perturbed(self._graph_module, *each, codes=self.codes).run(*flat)) for each in signed_seeds(seeds)]

    def _bounds(self) -> list[Tensor]:
        return [_bound(*each) for each in zip(self.outputs, self.exact_outputs, zip(*self._moved, strict=True), strict=True)]

    def moved_inputs(self, quantizers: Collection[str], pairs: int = PAIRS) -> Callable[[str], Reach]:
        """Returns a function that gives the range over which rounding moves a quantizer's input.

        All earlier quantizers have the same codes. Runs are cached: many files may be compared with
        one run.

        Args:
            quantizers: Names of the quantizers.
            pairs: Minimum pairs of runs.
        """
        flat = flat_inputs(self._graph_module, *self.given)
        for start in sorted({self._tried.get(name, 0) for name in quantizers}):
            names = [name for name in quantizers if self._tried.get(name, 0) == start]
            for each in signed_seeds(range(start, pairs)):
                run = Perturbed(self._graph_module, *each, codes=self.codes, quantizers=names, reached=self._widen_reach)
                with torch.no_grad():
                    run.run(*flat)
            self._tried |= {name: max(start, pairs) for name in names}
        return lambda name: Reach(self._low[name], self._high[name])

    def _widen_reach(self, quantizer: str, x: Tensor) -> None:
        self._low[quantizer] = torch.minimum(self._low.get(quantizer, x), x)
        self._high[quantizer] = torch.maximum(self._high.get(quantizer, x), x)


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


def leaves(tree: Any) -> list[np.ndarray]:
    """Returns the tensors of a tree as arrays, without plain numbers, which a file does not output."""
    return [leaf.detach().cpu().numpy() for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the norm of the difference over values that are finite in both; infinity if shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    difference = differences(torch.from_numpy(a), torch.from_numpy(b))
    return float(torch.linalg.vector_norm(difference[difference.isfinite()]))


def size(a: np.ndarray) -> float:
    """Returns the norm over finite values."""
    return distance(a, np.where(np.isfinite(a), 0, a))


def without_fills(
    found: np.ndarray, expected: np.ndarray, near: float = 0.0, *, added: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both with mask fill values set to 0: -1e9 would dominate the norm and allow any error.

    Args:
        found: Computed values.
        expected: Expected values.
        near: See ``fill_values``.
        added: See ``fill_values``.
    """
    if found.shape != expected.shape or expected.dtype.kind != "f":
        return found, expected
    fills = fill_values(torch.from_numpy(found), torch.from_numpy(expected), near, added=added).numpy()
    return np.where(fills, 0, found), np.where(fills, 0, expected)


def misplaced(a: np.ndarray, b: np.ndarray) -> int:
    """Counts the values that are finite, NaN or infinite in one array and not in the other."""
    if a.shape != b.shape:
        return max(a.size, b.size)
    return int((kinds(torch.from_numpy(a)) != kinds(torch.from_numpy(b))).sum())


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the input and the codes of every quantizer."""

    def __init__(self, graph_module: fx.GraphModule, encode: Encode | None, inputs: SpilledTensors) -> None:
        super().__init__(graph_module)
        self._encode, self.inputs = encode, inputs
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
    """Runs a ``widened`` graph with the codes of the float32 run, and keeps the input of every quantizer."""

    def __init__(self, wide: fx.GraphModule, codes: dict[str, Tensor], inputs: SpilledTensors) -> None:
        super().__init__(wide)
        self._codes, self.inputs = codes, inputs

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(str(target))
        if not isinstance(module, Quantizer):
            return super().call_module(target, args, kwargs)
        self.inputs[str(target)] = args[0]
        return module.decode(self._codes[str(target)])


def widened(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy that computes in float64 throughout, to be run in ``Float64ByDefault``.

    Casts to float32 become casts to float64.
    """
    double = without_input_check(copy.deepcopy(graph_module)).double()  # which takes float32 only
    widen = lambda value: torch.float64 if value is torch.float32 else value  # noqa: E731
    for module in double.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.args, node.kwargs = map_aggregate(node.args, widen), map_aggregate(node.kwargs, widen)
            module.recompile()
    return double


class Float64ByDefault(TorchDispatchMode):
    """Makes float64 the default dtype, as for ``torch.zeros(n)`` or the quotient of two integers.

    It applies to this thread only; torch's own default dtype is global to the process.
    """

    supports_higher_order_operators = True  # a branch or loop runs its body in this mode

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See ``TorchDispatchMode``."""
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or result.dtype is not torch.float32 or _reads_floats(args, kwargs):
            return result
        if any(argument.name == "dtype" for argument in func._schema.arguments) and kwargs.get("dtype") is None:
            return func(*args, **{**kwargs, "dtype": torch.float64})
        if kwargs.get("dtype") is torch.float32:
            return result  # explicitly requested
        wide = func(*pytree.tree_map(_as_double, args), **pytree.tree_map(_as_double, kwargs))
        return wide.double()  # the product of a bool and a number is still float32


def _reads_floats(args: Any, kwargs: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in pytree.tree_leaves((args, kwargs)))


def _as_double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.dtype != torch.bool else leaf


def in_float64(inputs: ModelInputs) -> ModelInputs:
    """Returns the inputs of a call with floats converted to float64."""
    return _map_floats(inputs, lambda t: t.double())


def _map_floats(inputs: ModelInputs, function: Callable[[Tensor], Tensor]) -> ModelInputs:
    apply = lambda leaf: function(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf  # noqa: E731
    return ModelInputs(*pytree.tree_map(apply, tuple(inputs)))
