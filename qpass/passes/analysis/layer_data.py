"""Actual and target inputs of a layer, by batch: sums to fit its weight, and data to select it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from qpass.nn import QuantizedConv, QuantizedLayer
from qpass.runtime.distributed import ALONE, Processes

#: Values of a convolution's windows at a time.
_VALUES_OF_A_PART = 2**23


@dataclass(frozen=True)
class InputSums:
    """Sums over rows, in float64; in a weighted sum a row of weight w counts w times.

    Attributes:
        gram: XᵀX of the inputs: (in, in).
        drift: ΔXᵀX, where ΔX is the target minus the actual inputs: (in, in).
        mean: Mean of the inputs: (in,).
        wanted_mean: Mean of the target inputs: (in,).
    """

    gram: Tensor
    drift: Tensor
    mean: Tensor
    wanted_mean: Tensor


class LayerData:
    """The inputs of one layer. Every fourth batch is held out to select among fitted weights.

    Args:
        layer: The layer that reads them.
        inputs: Actual inputs, by batch.
        wanted: Target inputs, by batch.
        weights: Weights of the rows of the layer's output, by batch; None weights all rows equally.
        processes: Processes that share the batches; sums and errors are over all of them.
    """

    def __init__(
        self,
        layer: QuantizedLayer,
        inputs: Sequence[Tensor],
        wanted: Sequence[Tensor],
        weights: Sequence[Tensor] | None,
        processes: Processes = ALONE,
    ) -> None:
        self._layer, self._inputs, self._wanted, self._weights = layer, inputs, wanted, weights
        self._processes = processes
        self._count = sum(processes.gather(len(inputs)))

    def sums(self) -> InputSums:
        """Returns the sums over the batches used for fitting."""
        width, weights = self._layer.weight_shape[1:].numel(), self._layer.effective_weight()
        new = partial(torch.zeros, dtype=torch.float64, device=weights.device)
        gram, drift, mean, wanted_mean, total = new(width, width), new(width, width), new(width), new(width), new(())
        for x, y, weight in self._parts(judging=False):
            weighted = x if weight is None else x * weight[:, None]
            gram += weighted.T @ x
            drift += (y - x).T @ weighted
            mean += weighted.sum(0)
            wanted_mean += (y if weight is None else y * weight[:, None]).sum(0)
            total += len(x) if weight is None else weight.sum()
        gram, drift, mean, wanted_mean, total = map(self._processes.sum, (gram, drift, mean, wanted_mean, total))
        rows = total.clamp(min=torch.finfo(total.dtype).tiny)  # an expert may be given none
        return InputSums(gram, drift, mean / rows, wanted_mean / rows)

    def nearest(self, candidates: Sequence[Tensor] | Tensor, weight: Tensor) -> Tensor:
        """Returns the candidate with the least of ``errors``."""
        errors = self.errors(candidates, weight)
        return candidates[errors.index(min(errors))]

    def errors(self, candidates: Sequence[Tensor] | Tensor, weight: Tensor) -> list[float]:
        """Returns the squared output error of each candidate on the held-out batches.

        Args:
            candidates: Weights: (out, in) each.
            weight: Maps target inputs to target outputs: (out, in), float64.
        """
        forms = [candidate.double() for candidate in candidates]
        errors = [0.0] * len(forms)
        for x, y, row_weight in self._parts(judging=True):
            output = y @ weight.T
            for which, form in enumerate(forms):
                squared = (x @ form.T - output).square()
                errors[which] += (squared if row_weight is None else squared * row_weight[:, None]).sum().item()
        return list(self._processes.sum(torch.tensor(errors, dtype=torch.float64)).tolist())

    def _batches(self, *, judging: bool) -> list[int]:
        """Returns the local indices of the fitting or held-out batches, by position among all processes."""
        places = enumerate(range(self._processes.rank, self._count, self._processes.size))
        # With too few batches to hold one out, all serve both purposes.
        return [index for index, place in places if self._count < 4 or (place % 4 == 3) == judging]

    def _parts(self, *, judging: bool) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yields ``_rows`` of the fitting or held-out batches.

        Windows that overlap repeat their input, so a convolution's batch is split into parts.
        """
        for index in self._batches(judging=judging):
            x, y = self._inputs[index], self._wanted[index]
            weight = None if self._weights is None else self._weights[index]
            if not isinstance(self._layer, QuantizedConv) or x.shape != y.shape or not len(x):
                yield self._rows(x, y, weight)
                continue
            size = max(1, _VALUES_OF_A_PART // (x[0].numel() * math.prod(self._layer.sides)))
            by_sample = None if weight is None or weight.numel() % len(x) else weight.reshape(len(x), -1)
            for start in range(0, len(x), size):
                part = slice(start, start + size)
                yield self._rows(x[part], y[part], weight if by_sample is None else by_sample[part].flatten())

    def _rows(self, inputs: Tensor, wanted: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns rows in float64: actual and target inputs (rows, in), and weights (rows,).

        Rows that the network chooses by value may be others in the float network, and of another number.
        Such rows are their own targets, and have equal weights.
        """
        x, y = (self._layer.rows(values).double() for values in (inputs, wanted))
        y = y if len(y) == len(x) else x
        if weight is None:
            return x, y, None
        if not len(x) or len(weight) % len(x):
            return x, y, torch.ones_like(x[:, 0])
        # Gradients come from parts of a batch: a layer of constant rows has these for each part.
        return x, y, weight.reshape(-1, len(x)).mean(0)
