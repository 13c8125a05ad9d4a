"""Free levels of a weight: 2^k signed bytes per table, a table for a few output channels.

Prior work: Deep Compression (https://arxiv.org/abs/1510.00149) shares weights by k-means.
SqueezeLLM (https://arxiv.org/abs/2306.07629) weights it by the Hessian's diagonal, per channel.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from qpass.quantizers.base import GREATEST_INT8, Criterion, Quantizer
from qpass.quantizers.k_means import k_means

#: Bins of a histogram, on which k-means is exact; iterations on the weights themselves after it.
_BINS = 64
_ITERATIONS = 10
#: Tables fitted at once: bounds the memory of exact k-means.
_AT_ONCE = 64


class WeightCodebook(Quantizer):
    """q = index of the level nearest to w / s_c, ŵ = s_c table_g[q]; c an output channel of group g.

    Tables hold signed bytes, so that the weight is an int8 weight with a scale per output channel.
    Codes have k bits.

    Args:
        bits: Bit width k of the codes, 2 to 7.
        channels: Output channels that share a table; 0 for one table for all.
    """

    scale: Tensor
    table: Tensor

    def __init__(self, bits: int, *, channels: int = 1) -> None:
        super().__init__(bits)
        self.channels = channels
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("table", torch.zeros(1, 2**bits, dtype=torch.int8))

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this quantizer, unfitted."""
        return {"bits": self.bits, "channels": self.channels}

    @property
    def label(self) -> str:
        """Name shown in reports."""
        return "Codebook"

    def tables(self, outputs: int) -> Tensor:
        """Returns the index of the table of each output channel: (outputs,)."""
        return torch.arange(outputs, device=self.scale.device) // (self.channels or outputs)

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Fits tables and scales by k-means; see ``Quantizer.fit``.

        Args:
            x: Weight: (out, in).
            weight: Cost of a squared error of each value, such as the diagonal of a Hessian; broadcasts.
            criterion: Not used.
        """
        x = x.detach().double().flatten(1)
        cost = torch.ones_like(x) if weight is None else weight.double().expand_as(x).clamp(min=0)
        scale = _alive(((cost * x.square()).sum(1) / cost.sum(1).clamp(min=1e-300)).sqrt())
        tables = self.tables(len(x)).to(x.device)
        levels = self._first_levels(x / scale[:, None], cost * scale.square()[:, None], tables)
        for _ in range(_ITERATIONS):
            codes = _nearest(x / scale[:, None], levels[tables])
            place = codes + tables[:, None] * levels.shape[1]
            counts, sums = (
                torch.zeros_like(levels).flatten().index_add_(0, place.flatten(), each.flatten())
                for each in (cost * scale.square()[:, None], cost * scale[:, None] * x)
            )
            levels = torch.where(counts > 0, sums / counts, levels.flatten()).view_as(levels).sort(1).values
            if self.channels != 1:
                values = levels.flatten()[codes + tables[:, None] * levels.shape[1]]
                scale = (cost * x * values).sum(1) / (cost * values.square()).sum(1).clamp(min=1e-300)
                scale = _alive(scale)
        return self.set_levels(levels, scale)

    def _first_levels(self, x: Tensor, cost: Tensor, tables: Tensor) -> Tensor:
        """Returns the levels of exact k-means over histograms: (tables, levels)."""
        count = int(tables[-1]) + 1
        low = torch.full((count,), torch.inf, dtype=x.dtype, device=x.device).scatter_reduce_(0, tables, x.amin(1), "amin")
        high = torch.full_like(low, -torch.inf).scatter_reduce_(0, tables, x.amax(1), "amax")
        step = ((high - low) / (_BINS - 1)).clamp(min=1e-300)
        bins = ((x - low[tables, None]) / step[tables, None]).round().long().clamp(0, _BINS - 1) + tables[:, None] * _BINS
        counts, sums = (x.new_zeros(count * _BINS).index_add_(0, bins.flatten(), each.flatten()) for each in (cost, cost * x))
        counts, sums = counts.view(count, _BINS), sums.view(count, _BINS)
        centres = low[:, None] + step[:, None] * torch.arange(_BINS, device=x.device)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1e-300), centres)
        parts = zip(centres.split(_AT_ONCE), counts.split(_AT_ONCE), strict=True)
        return torch.cat([k_means(values, weight, 2**self.bits) for values, weight in parts])

    def rows(self, part: slice) -> WeightCodebook:
        """Returns a codebook of some of the output channels, which begin and end with a table."""
        found = WeightCodebook(**self.config)
        found.scale = self.scale[part]
        found.table = self.table[self.tables(len(self.scale))[part].unique()]
        return found

    def set_levels(self, levels: Tensor, scale: Tensor) -> Self:
        """Rounds levels to bytes and keeps them; the largest of each table becomes 127.

        Args:
            levels: Finite: (tables, 2^k).
            scale: What a channel's levels are multiplied by, positive: (out,).
        """
        unit = _alive(levels.abs().amax(1)) / GREATEST_INT8
        self.table = (levels / unit[:, None]).round().sort(1).values.to(torch.int8)
        self.scale = (scale * unit[self.tables(len(scale)).to(unit.device)]).float()
        return self

    def channel_levels(self) -> Tensor:
        """Returns each output channel's levels, ascending: (out, 2^k)."""
        return self.table[self.tables(len(self.scale))].to(self.scale.dtype) * self.scale[:, None]

    def codes(self, x: Tensor) -> Tensor:
        """See ``Quantizer.codes``; x is (out, ...)."""
        rows = x.detach().flatten(1)
        found = _nearest(rows, self.channel_levels()).to(x.dtype).view_as(x)
        return found + (x - x.detach())

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``; codes are (out, ...)."""
        return self.channel_levels().gather(1, codes.flatten(1).long()).view(codes.shape)

    def forward(self, x: Tensor) -> Tensor:
        """See ``Quantizer.forward``; the gradient is 1."""
        return self.decode(self.codes(x.detach())) + (x - x.detach()) if self.enabled else x

    def levels(self) -> Tensor:
        """See ``Quantizer.levels``; shape (codes, channels)."""
        return self.channel_levels().T


def _nearest(rows: Tensor, levels: Tensor) -> Tensor:
    """Returns the index of the nearest of each row's ascending levels: (rows, n) -> (rows, n)."""
    return torch.searchsorted(((levels[:, 1:] + levels[:, :-1]) / 2).contiguous(), rows.contiguous())


def _alive(scale: Tensor) -> Tensor:
    """Replaces scales that are not above 0 by 1."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
