"""A histogram that needs no predefined range and does not depend on the order of its data."""

from __future__ import annotations

import torch
from torch import Tensor

from qpass.errors import CalibrationError


class HistogramObserver:
    """Counts values in bins [i w, (i + 1) w), where w is a power of two that grows with the range.

    A coarser bin is exactly two finer ones. The counts therefore depend on the data alone, not on the
    order or size of the batches, and two histograms merge exactly.

    Args:
        name: Node or module named in errors.
        channel_axis: Dimension with one histogram per index, or None for a single histogram.
        bins: Maximum number of bins; memory is ``channels * bins * 8`` bytes.
    """

    def __init__(self, name: str, *, channel_axis: int | None = None, bins: int = 8192) -> None:
        self.name, self.channel_axis, self.bins = name, channel_axis, bins
        self.low = self.high = torch.empty(0, dtype=torch.float64)  # (channels,) smallest and largest value seen
        self._exponent = self._first = torch.empty(0, dtype=torch.int64)  # w = 2**exponent; index of the first bin
        self._counts = torch.empty(0, bins, dtype=torch.int64)  # (channels, bins)

    def update(self, x: Tensor) -> None:
        """Counts the values of one batch.

        Raises:
            CalibrationError: If a value is NaN or infinite.
        """
        rows = x.detach().reshape(1, -1) if self.channel_axis is None else x.detach().movedim(self.channel_axis, 0).flatten(1)
        rows = rows.float()
        if rows.numel() == 0:
            return
        low, high = rows.amin(1).double().cpu(), rows.amax(1).double().cpu()
        if not (low.isfinite().all() and high.isfinite().all()):
            raise CalibrationError(
                "NaN or infinite values", where=self.name, hint="look at the calibration data and at the float model's output"
            )
        self._make_room(low, high)
        # Exact in float32: the scale is a power of two, and no quotient exceeds 2^24. The narrowest
        # integers are counted fastest.
        index = (rows * torch.ldexp(torch.ones(()), -self._exponent.float()).to(rows.device)[:, None]).floor_()
        index -= self._first.float().to(rows.device)[:, None]
        index = index.to(torch.int16 if self._counts.numel() <= 2**15 else torch.int32)
        index += torch.arange(len(rows), device=rows.device, dtype=index.dtype)[:, None] * self.bins
        counts = torch.bincount(index.flatten(), minlength=self._counts.numel())
        self._counts += counts.view(self._counts.shape).cpu()

    def merge(self, other: HistogramObserver) -> None:
        """Adds the counts of another observer with the same number of channels and bins."""
        if len(other.low) == 0:
            return
        self._make_room(other.low, other.high)
        self._counts += other._in_bins(self._exponent, self._first)

    def _in_bins(self, exponent: Tensor, first: Tensor) -> Tensor:
        """Returns the counts in bins of the same width or wider."""
        old = self._first[:, None] + torch.arange(self.bins)
        new = (old >> (exponent - self._exponent)[:, None]) - first[:, None]
        counts = torch.zeros(len(first), self.bins, dtype=torch.int64)
        return counts.scatter_add_(1, new.clamp(0, self.bins - 1), self._counts)  # only empty bins are clamped

    def _make_room(self, low: Tensor, high: Tensor) -> None:
        """Widens the bins until [low, high] and all values seen fit."""
        seen = len(self.low) > 0
        low, high = (torch.minimum(low, self.low), torch.maximum(high, self.high)) if seen else (low, high)
        if seen and torch.equal(low, self.low) and torch.equal(high, self.high):
            return
        exponent = _finest_exponent(low, high, self.bins)
        first = torch.floor(torch.ldexp(low, -exponent)).to(torch.int64)
        counts = self._in_bins(exponent, first) if seen else torch.zeros(len(low), self.bins, dtype=torch.int64)
        self.low, self.high, self._exponent, self._first, self._counts = low, high, exponent, first, counts

    def samples(self) -> tuple[Tensor, Tensor]:
        """Returns bin centres and counts for ``Quantizer.fit``, (channels, bins) each.

        The outermost centres are the smallest and largest value seen.

        Raises:
            CalibrationError: If no value was counted.
        """
        if len(self.low) == 0:
            raise CalibrationError(
                "no value was recorded",
                where=self.name,
                expected="calibration batches from which the network computes it",
                hint="give more of them, or leave the layer in float by a rule: an expert may be given no rows",
            )
        index = self._first[:, None] + torch.arange(self.bins)
        centres = torch.ldexp(index.double() + 0.5, self._exponent[:, None])
        used = slice(0, int((self._counts.sum(0) > 0).nonzero().max()) + 1)
        centres = torch.maximum(torch.minimum(centres, self.high[:, None]), self.low[:, None])
        centres[self._edge(self.low)] = self.low
        centres[self._edge(self.high)] = self.high
        return centres[:, used], self._counts[:, used]

    def _edge(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the index of the bin that holds ``value``, for each channel."""
        index = torch.floor(torch.ldexp(value, -self._exponent)).to(torch.int64) - self._first
        return torch.arange(len(value)), index


def _finest_exponent(low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Returns the smallest e with floor(high / 2^e) - floor(low / 2^e) < bins, for each channel."""
    reach = torch.maximum(low.abs(), high.abs()).clamp(min=1e-30)
    finest = torch.floor(torch.log2(reach)) - 23  # float32 resolves nothing finer there
    needed = torch.floor(torch.log2(((high - low) / bins).clamp(min=1e-30)))
    exponent = torch.maximum(finest, needed).to(torch.int64)
    for _ in range(3):
        span = torch.floor(torch.ldexp(high, -exponent)) - torch.floor(torch.ldexp(low, -exponent))
        exponent += (span >= bins).to(torch.int64)
    return exponent
