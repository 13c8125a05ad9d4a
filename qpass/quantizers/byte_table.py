"""A codebook as deployed: a table of 256 bytes."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from qpass.errors import QPassError
from qpass.quantizers.base import GREATEST_BYTE, GREATEST_INT8, Criterion, Quantizer, round_clamp_ste
from qpass.quantizers.codebook import GRID_CODES, Codebook


class ByteTable(Quantizer):
    """g = clamp([x / s] + z, 0, 255), x̂ = s (table[g] - table_zero_point): a ``Codebook`` as deployed.

    Codes are the 256 cells of the grid. The table holds the nearest level of each cell as a byte, with
    2^bits different levels at most. Signed levels are 128 less than on the grid.

    Args:
        bits: Bit width k of the codebook, which has at most 2^k levels.
        signed: Whether levels are int8 rather than uint8.
    """

    scale: Tensor
    zero_point: Tensor
    table: Tensor

    def __init__(self, bits: int, *, signed: bool = False) -> None:
        super().__init__(bits)
        self.levels_signed = signed
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0.0))
        self.register_buffer("table", torch.zeros(GRID_CODES, dtype=torch.int8 if signed else torch.uint8))

    @classmethod
    def of(cls, codebook: Codebook) -> ByteTable:
        """Tabulates a fitted codebook with one scale.

        Raises:
            QPassError: If it has a scale per channel.
        """
        if codebook.axis is not None:
            raise QPassError("has a scale for each channel", where="ByteTable", expected="one scale")
        found = cls(codebook.bits, signed=codebook.deploys_signed).to(codebook.scale.device)
        found.scale, found.zero_point = codebook.scale.detach().clone(), codebook.zero_point.clone()
        cells = torch.arange(GRID_CODES, device=codebook.scale.device)
        levels = codebook.levels_on_grid[codebook.index_of(cells)] - found.level_offset
        found.table = levels.to(found.table.dtype)
        return found

    @property
    def level_offset(self) -> int:
        """What is subtracted from a level on the grid to make it a byte of the table."""
        return GREATEST_INT8 + 1 if self.levels_signed else 0

    @property
    def table_zero_point(self) -> Tensor:
        """The byte that stands for 0; one element."""
        return self.zero_point - self.level_offset

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this quantizer, unfitted."""
        return {"bits": self.bits, "signed": self.levels_signed}

    @property
    def label(self) -> str:
        """Name shown in reports."""
        return "Codebook"

    @property
    def code_max(self) -> int:
        """Index of the last cell."""
        return GRID_CODES - 1

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Always raises.

        Raises:
            QPassError: A table is built from a fitted codebook, not fitted to data.
        """
        raise QPassError("a table is not fitted to data", where="ByteTable", hint="fit a Codebook and take ByteTable.of(it)")

    def codes(self, x: Tensor) -> Tensor:
        """Returns the cells of ``x`` as floats."""
        return round_clamp_ste(x / self.scale, -self.zero_point, GREATEST_BYTE - self.zero_point) + self.zero_point

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``."""
        return (self.table[codes.long()].to(self.scale.dtype) - self.table_zero_point) * self.scale

    def levels(self) -> Tensor:
        """Returns all output levels, ascending."""
        return self.decode(torch.arange(GRID_CODES, device=self.table.device)).unique()
