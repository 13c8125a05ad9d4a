"""What a layer gets and what it should have got, batch by batch: the sums that its weight is made from, and what judges it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from qpass.nn import QuantizedLayer
from qpass.quantizers import Quantizer
from qpass.runtime.distributed import ALONE, Processes


@dataclass(frozen=True)
class InputSums:
    """Sums over rows, in float64; in a weighted sum a row of weight w counts w times.

    Attributes:
        gram: XᵀX of the inputs: (in, in).
        drift: ΔXᵀX, where ΔX is what the wanted inputs have over those: (in, in).
        mean: Of the inputs: (in,).
        wanted_mean: Of the wanted inputs: (in,).
    """

    gram: Tensor
    drift: Tensor
    mean: Tensor
    wanted_mean: Tensor


class LayerData:
    """The inputs of one layer, of which every fourth batch only judges what the others make.

    Args:
        layer: Reads them.
        inputs: By batch, what the layer gets.
        wanted: By batch, what it should have got.
        weights: By batch, the weight of each row of its output; None weighs all the same.
        processes: Those that share the batches; sums and errors are those of all.
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
        """Returns the sums over the batches that are learned from."""
        width, weights = self._layer.weight_shape[1:].numel(), self._layer.effective_weight()
        new = partial(torch.zeros, dtype=torch.float64, device=weights.device)
        gram, drift, mean, wanted_mean, total = new(width, width), new(width, width), new(width), new(width), new(())
        for index in self._batches(judging=False):
            x, y, weight = self._rows(index)
            weighted = x if weight is None else x * weight[:, None]
            gram += weighted.T @ x
            drift += (y - x).T @ weighted
            mean += weighted.sum(0)
            wanted_mean += (y if weight is None else y * weight[:, None]).sum(0)
            total += len(x) if weight is None else weight.sum()
        gram, drift, mean, wanted_mean, total = map(self._processes.sum, (gram, drift, mean, wanted_mean, total))
        return InputSums(gram, drift, mean / total, wanted_mean / total)

    def nearest(self, candidates: Tensor, weight: Tensor, quantize: Quantizer | None = None) -> tuple[Tensor, Tensor]:
        """Returns the candidate whose quantized form gives the nearest outputs on the batches that judge, and that form.

        Args:
            candidates: Weights: (candidates, out, in).
            weight: Gives the wanted outputs of the wanted inputs: (out, in), float64.
            quantize: What a candidate is multiplied as; None for itself.

        Returns:
            The candidate, and its form in float64: (out, in) each.
        """
        forms = [(candidate if quantize is None else quantize(candidate)).double() for candidate in candidates]
        errors = [0.0] * len(forms)
        for index in self._batches(judging=True):
            x, y, row_weight = self._rows(index)
            output = y @ weight.T
            for which, form in enumerate(forms):
                squared = (x @ form.T - output).square()
                errors[which] += (squared if row_weight is None else squared * row_weight[:, None]).sum().item()
        errors = self._processes.sum(torch.tensor(errors, dtype=torch.float64)).tolist()
        best = errors.index(min(errors))
        return candidates[best], forms[best]

    def _batches(self, *, judging: bool) -> list[int]:
        """Returns which of the batches here learn or judge, by their places among those of all processes."""
        places = enumerate(range(self._processes.rank, self._count, self._processes.size))
        # Where there are too few for one to be spared, all do both.
        return [index for index, place in places if self._count < 4 or (place % 4 == 3) == judging]

    def _rows(self, index: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns one batch in float64: inputs and wanted inputs (rows, in), and weights (rows,)."""
        x, y = (self._layer.rows(values[index]).double() for values in (self._inputs, self._wanted))
        if self._weights is None:
            return x, y, None
        # Derivatives are taken of parts of a batch: a layer whose rows do not grow with it has rows of each part.
        return x, y, self._weights[index].reshape(-1, len(x)).mean(0)
