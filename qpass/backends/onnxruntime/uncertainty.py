"""Torch's own uncertainty in a free run: float64, ties broken differently, other roundings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from qpass.backends.onnxruntime.perturbed import MORE_PAIRS, Perturbed, signed_seeds
from qpass.backends.onnxruntime.torch_run import (
    Float64ByDefault,
    distance,
    in_float64,
    leaves,
    misplaced,
    widened,
    without_fills,
)
from qpass.data import ModelInputs
from qpass.graph.edit import flat_inputs
from qpass.graph.fills import filled_outputs
from qpass.quantizers import Quantizer

#: Ties round up together, down together (as equal values do), and three times at random: they
#: cascade by chance.
_MOVES = (1.0, -1.0, None, None, None)
#: Relative tolerance of mask fill values: a few float32 roundings.
_ROUNDED = 1e-5


@dataclass(frozen=True)
class Uncertainty:
    """Torch's own uncertainty in one output.

    Attributes:
        distance: Largest norm of a difference, over the values that are finite in both.
        misplaced: Largest count of values of another kind (finite, NaN, infinite).
        nan: Whether any run outputs NaN.
        filled: Whether a mask fills values into it.
    """

    distance: float
    misplaced: int
    nan: bool
    filled: bool = False


class OwnError:
    """Distance of torch's float32 outputs from float64, and from float32 with ties broken differently.

    Args:
        graph_module: A quantized graph.
        inputs: Inputs of one call.
        outputs: Its outputs in float32.
        tie: Share of its largest magnitude by which the input of every quantizer is moved, at most.
        wide: ``widened(graph_module)``, if there is one already.

    Attributes:
        outputs: The uncertainty of each output.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        inputs: ModelInputs,
        outputs: Sequence[np.ndarray],
        *,
        tie: float,
        wide: fx.GraphModule | None = None,
    ) -> None:
        self._graph_module, self._flat, self._outputs = graph_module, flat_inputs(graph_module, *inputs), outputs
        double = in_float64(inputs)
        with torch.no_grad():
            wide = widened(graph_module) if wide is None else wide
            with Float64ByDefault():
                runs = [leaves(wide(*double.args, **double.kwargs))]
            for seed, move in enumerate(_MOVES):
                runs.append(leaves(_MovedTies(graph_module, tie, move, seed).run(*self._flat)))
        nothing = [Uncertainty(0.0, 0, False, filled) for filled in filled_outputs(graph_module)]
        self.outputs, self._is_close = self._joined(runs, nothing), False

    def look_closer(self) -> None:
        """Adds runs that round every operator differently: some flip ties or data-dependent choices."""
        if self._is_close:
            return
        self._is_close = True
        for each in signed_seeds(range(MORE_PAIRS)):
            with torch.no_grad():
                self.outputs = self._joined([leaves(Perturbed(self._graph_module, *each).run(*self._flat))], self.outputs)

    def _joined(self, runs: Sequence[Sequence[np.ndarray]], known: Sequence[Uncertainty]) -> list[Uncertainty]:
        return [_joined(*each) for each in zip(known, self._outputs, zip(*runs, strict=True), strict=True)]


def _joined(known: Uncertainty, output: np.ndarray, others: Sequence[np.ndarray]) -> Uncertainty:
    return Uncertainty(
        max(known.distance, *(distance(*without_fills(other, output, _ROUNDED, added=known.filled)) for other in others)),
        max(known.misplaced, *(misplaced(other, output) for other in others)),
        known.nan or any(bool(np.isnan(other).any()) for other in (output, *others)),
        known.filled,
    )


class _MovedTies(fx.Interpreter):
    """Runs a graph with every quantizer's input moved by a share of its largest magnitude, or at random."""

    def __init__(self, graph_module: fx.GraphModule, tie: float, move: float | None, seed: int) -> None:
        super().__init__(graph_module)
        self._tie, self._move, self._generator = tie, move, torch.Generator().manual_seed(seed)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(self.fetch_attr(str(target)), Quantizer):
            (x,) = args
            move = torch.rand(x.shape, generator=self._generator) * 2 - 1 if self._move is None else self._move
            args = (x + move * self._tie * x.abs().amax(),)
        return super().call_module(target, args, kwargs)
