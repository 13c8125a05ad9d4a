"""A fitted quantizer as a table of 256 log-spaced cells, whose cost does not depend on the formula."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from qpass.errors import QPassError
from qpass.quantizers.base import LEAST_FLOAT, Criterion, Quantizer

_CELLS = 256
#: ln of the smallest normal float32; the threshold search stops here.
_LEAST_LOG = -126 * math.log(2)


class LookUp(Quantizer):
    """c = clamp([ln x / δ] + 255, 0, 255), x̂ = table[c]: a quantizer with thresholds at cell edges.

    The logarithm of a Softmax output is a LogSoftmax and costs nothing extra. Cells are δ apart in
    ln x; the lowest threshold is the edge of the first cell. Codes are cell indices. A table of small
    integers n, x̂ = unit n + offset, can feed an integer matmul.

    Args:
        bits: Bit width of the tabulated quantizer, which has at most 2^bits levels.
        formula: Class name of the tabulated quantizer.
        integers: Whether the table holds integers.
    """

    log_step: Tensor
    table: Tensor
    unit: Tensor
    offset: Tensor

    def __init__(self, bits: int, *, formula: str = "", integers: bool = False) -> None:
        super().__init__(bits)
        self.formula, self.integers = formula, integers
        self.register_buffer("log_step", torch.tensor(0.05))
        self.register_buffer("table", torch.zeros(_CELLS, dtype=torch.uint8 if integers else torch.float32))
        self.register_buffer("unit", torch.tensor(1.0))
        self.register_buffer("offset", torch.tensor(0.0))

    @classmethod
    def of(cls, quantizer: Quantizer) -> LookUp:
        """Tabulates a fitted quantizer with one scale for values >= 0."""
        levels = quantizer.integer_levels()
        found = cls(quantizer.bits, formula=type(quantizer).__name__, integers=levels is not None)
        found.to(quantizer.scale.device)  # type: ignore[arg-type]
        found.log_step.fill_(-_lowest_threshold(quantizer) / (_CELLS - 1.5))
        centres = ((torch.arange(_CELLS, device=found.log_step.device) - (_CELLS - 1)) * found.log_step).exp()
        centres[0] = 0
        with torch.no_grad():
            if levels is None:
                found.table = quantizer(centres)
            else:
                numbers, found.unit, found.offset = levels
                found.table = numbers[quantizer.encode(centres).long()]
        return found

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this quantizer, unfitted."""
        return {"bits": self.bits, "formula": self.formula, "integers": self.integers}

    @property
    def label(self) -> str:
        """Name shown in reports."""
        return f"{self.formula} (table)"

    @property
    def code_max(self) -> int:
        """Index of the last cell."""
        return _CELLS - 1

    @property
    def scale(self) -> Tensor:
        """Largest level; one element."""
        return self.levels()[-1]

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Always raises.

        Raises:
            QPassError: A table is built from a fitted quantizer, not fitted to data.
        """
        raise QPassError("a table is not fitted to data", where="LookUp", hint="fit a quantizer and take LookUp.of(quantizer)")

    def codes(self, x: Tensor) -> Tensor:
        """Returns the cell indices of ``x`` as floats."""
        cells = (x.clamp(min=LEAST_FLOAT).log() / self.log_step).round()
        return cells.clamp(min=1 - _CELLS, max=0) + (_CELLS - 1)

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``."""
        return self.table[codes.long()] * self.unit + self.offset

    def levels(self) -> Tensor:
        """Returns all output levels, ascending."""
        return self.decode(torch.arange(_CELLS, device=self.table.device)).unique()


def _lowest_threshold(quantizer: Quantizer) -> float:
    """Returns ln of the smallest x <= 1 not quantized like 0, capped at -1; -1 where there is none."""
    with torch.no_grad():
        one = torch.ones(1, device=quantizer.scale.device)  # type: ignore[arg-type]
        zero = quantizer(0 * one)
        below, above = _LEAST_LOG, 0.0
        if torch.equal(quantizer(one), zero):
            return -1.0
        for _ in range(50):
            middle = (below + above) / 2
            same = torch.equal(quantizer((middle * one).exp()), zero)
            below, above = (middle, above) if same else (below, middle)
    return min(above, -1.0)
