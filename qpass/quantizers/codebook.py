"""Free levels: 2^k whole numbers of an 8-bit grid, anywhere on it."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from qpass.config import ACTIVATION_PERCENTILES
from qpass.quantizers.base import GREATEST_BYTE, Criterion, Quantizer
from qpass.quantizers.cell_table import quantize_by_cells
from qpass.quantizers.k_means import k_means
from qpass.quantizers.uniform import Uniform

_GRID_BITS = 8
#: Number of cells of the grid.
GRID_CODES = 2**_GRID_BITS


class Codebook(Quantizer):
    """g = clamp([x / s] + z, 0, 255), q = index of the level l_q nearest to g, x̂ = s (l_q - z).

    Levels are whole numbers, so a product of such values is an integer product. They have the least
    squared error of all choices of 2^k whole numbers on the grid: exact one-dimensional k-means over
    the 256 cells of the grid.

    Args:
        bits: Bit width k of the codes, 2 to 8.
        signed: Deploy levels as signed bytes, as integer kernels require of their second operand.
        axis: Dimension of the input with one scale and zero point per index, or None for a single
            pair. Levels are shared.
        percentiles: Clip ranges of the grid tried by ``fit``, each in (0.5, 1].
        free_zero_point: See ``Uniform``.
    """

    levels_on_grid: Tensor

    def __init__(
        self,
        bits: int,
        *,
        signed: bool = False,
        axis: int | None = None,
        percentiles: tuple[float, ...] = (*ACTIVATION_PERCENTILES, 1.0),
        free_zero_point: bool = False,
    ) -> None:
        super().__init__(bits)
        self.deploys_signed = signed
        self.grid = Uniform(_GRID_BITS, axis=axis, percentiles=percentiles, free_zero_point=free_zero_point)
        spread = torch.linspace(0, GREATEST_BYTE, 2**bits).round()
        self.register_buffer("levels_on_grid", spread)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this quantizer, unfitted."""
        grid = self.grid
        return {
            "bits": self.bits,
            "signed": self.deploys_signed,
            "axis": grid.axis,
            "percentiles": grid.percentiles,
            "free_zero_point": grid.free_zero_point,
        }

    @property
    def axis(self) -> int | None:
        """Dimension with one scale and zero point per index, or None."""
        return self.grid.axis

    @property
    def scale(self) -> Tensor:
        """Step of the grid: one element, or one per index of ``axis``."""
        return self.grid.scale

    @property
    def zero_point(self) -> Tensor:
        """Zero point of the grid, likewise."""
        return self.grid.zero_point

    @property
    def spacing(self) -> float:
        """Mean distance of neighboring levels, in steps of the grid."""
        return (self.levels_on_grid[-1] - self.levels_on_grid[0]).item() / (len(self.levels_on_grid) - 1)

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Fits levels to each clip range of the grid and keeps the best; see ``Quantizer.fit``.

        With an axis, each channel takes the range with the least error of the grid itself.
        """
        percentiles = self.grid.percentiles
        best, least = None, math.inf
        for tried in [percentiles] if self.axis is not None else [(p,) for p in percentiles]:
            self.grid.percentiles = tried
            self.grid.fit(x, weight)
            error = self.fit_levels(x, weight)
            error = error if criterion is None else criterion(self)
            if best is None or error < least:
                best, least = (self.scale, self.zero_point, self.levels_on_grid), error
        assert best is not None, "at least one percentile"
        self.grid.percentiles = percentiles
        self.grid.set_parameters(*best[:2])
        self.levels_on_grid = best[2]
        return self

    def fit_levels(self, x: Tensor, weight: Tensor | None = None) -> float:
        """Fits the levels for the present grid, and returns the squared error in units of the grid."""
        weight = torch.ones_like(x) if weight is None else weight
        with torch.no_grad():
            # Channels come first here. The exact values count, not the grid's: some lie beyond its ends.
            scale, zero_point = (each if self.axis is None else each[:, None] for each in (self.scale, self.zero_point))
            exact = (x / scale).double().add(zero_point).flatten()
            cells = exact.round().clamp(0, GREATEST_BYTE).long()
            weight = weight.double().flatten()
            counts = exact.new_zeros(GRID_CODES).index_add_(0, cells, weight)
            sums = exact.new_zeros(GRID_CODES).index_add_(0, cells, weight * exact)
            centres = torch.where(counts > 0, sums / counts, torch.arange(GRID_CODES, device=x.device, dtype=torch.float64))
            levels = k_means(centres[None], counts[None], 2**self.bits, bounds=(0, GREATEST_BYTE))[0]
            self.levels_on_grid = _distinct(levels).float()
            found = self.levels_on_grid[self.index_of(cells.float())].double()
            return float((weight * (exact - found).square()).sum())

    def index_of(self, cells: Tensor) -> Tensor:
        """Returns the index of the nearest level; the lower one of two equally near."""
        levels = self.levels_on_grid.detach().round()
        return torch.bucketize(cells, (levels[1:] + levels[:-1]) / 2)

    def codes(self, x: Tensor) -> Tensor:
        """See ``Quantizer.codes``."""
        cells = self.grid.codes(x)
        return cells + (self.index_of(cells.detach()) - cells).detach()

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``."""
        return self.grid.decode(self.levels_on_grid[codes.long()])

    def forward(self, x: Tensor) -> Tensor:
        """See ``Quantizer.forward``. The gradient is that of the grid's rounding.

        While levels are learned, each has the gradients of the values that take it.
        """
        if not self.enabled:
            return x
        scale, zero_point = self.grid.broadcast_parameters(x.dim())
        index = self.index_of(torch.arange(GRID_CODES, device=x.device))
        return quantize_by_cells(x, self.levels_on_grid, index, scale=scale, zero_point=zero_point)

    def layer_wise(self, scale: Tensor, zero_point: Tensor) -> Codebook:
        """Returns a codebook with these levels and a single scale and zero point."""
        found = Codebook(self.bits, percentiles=self.grid.percentiles)
        found.grid.set_parameters(scale, zero_point)
        found.levels_on_grid = self.levels_on_grid.clone()
        return found

    def project(self) -> Self:
        """See ``Quantizer.project``: levels stay on the grid, in order."""
        self.grid.project()
        if self.levels_on_grid.requires_grad:
            with torch.no_grad():
                self.levels_on_grid.copy_(self.levels_on_grid.clamp(0, GREATEST_BYTE).sort().values)
        return self

    def settle(self) -> Self:
        """See ``Quantizer.settle``: levels become whole numbers that differ."""
        with torch.no_grad():
            self.levels_on_grid.copy_(_distinct(self.levels_on_grid.round()))
        return self

    def levels(self) -> Tensor:
        """See ``Quantizer.levels``; shape (codes, channels) per channel."""
        levels = self.levels_on_grid
        return self.decode(torch.arange(len(levels))) if self.axis is None else (levels[:, None] - self.zero_point) * self.scale


def _distinct(levels: Tensor) -> Tensor:
    """Returns ascending whole numbers without repetitions: a repeated one becomes the nearest free number."""
    found = set[int]()
    for level in map(int, levels):
        free = (number for number in range(GRID_CODES) if number not in found)
        found.add(min(free, key=lambda number: abs(number - level)))
    return levels.new_tensor(sorted(found))
