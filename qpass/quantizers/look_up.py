"""A fitted quantizer as a table over 256 cells of equal ratio: what it costs to run no longer depends on its formula."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from qpass.errors import QPassError
from qpass.quantizers.base import LEAST_FLOAT, Criterion, Quantizer

_CELLS = 256
#: ln of the least normal float32; thresholds below it are not looked for.
_LEAST_LOG = -126 * math.log(2)


class LookUp(Quantizer):
    """c = clamp([ln x / δ] + 255, 0, 255), x̂ = table[c]: another quantizer, its thresholds moved to edges of cells.

    The logarithm of a Softmax output is a LogSoftmax and costs nothing; cells are δ apart in ln x, and the lowest threshold
    is the edge of the first cell. Codes are cells. A table of small integers n, x̂ = scale n + offset, meets an integer matmul.

    Args:
        bits: Width of the codes of the quantizer that was tabulated; it has at most 2^bits values.
        formula: Its class's name.
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
        """Returns the table of a fitted quantizer with one scale for values >= 0."""
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
        """The arguments that rebuild this quantizer, unfitted."""
        return {"bits": self.bits, "formula": self.formula, "integers": self.integers}

    @property
    def label(self) -> str:
        """What reports call it."""
        return f"{self.formula} (table)"

    @property
    def code_max(self) -> int:
        """The greatest cell."""
        return _CELLS - 1

    @property
    def scale(self) -> Tensor:
        """The greatest value; one element."""
        return self.levels()[-1]

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Always fails.

        Raises:
            QPassError: A table is made of a quantizer that is fitted.
        """
        raise QPassError("a table is not fitted to data", where="LookUp", hint="fit a quantizer and take LookUp.of(quantizer)")

    def codes(self, x: Tensor) -> Tensor:
        """Returns the cells of ``x`` as floats."""
        cells = (x.clamp(min=LEAST_FLOAT).log() / self.log_step).round()
        return cells.clamp(min=1 - _CELLS, max=0) + (_CELLS - 1)

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``."""
        return self.table[codes.long()] * self.unit + self.offset

    def levels(self) -> Tensor:
        """Returns every value that the quantizer can give, ascending."""
        return self.decode(torch.arange(_CELLS, device=self.table.device)).unique()


def _lowest_threshold(quantizer: Quantizer) -> float:
    """Returns ln x of the least x that is not quantized as 0 is; -1 where there is none below 1."""
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
