"""Checks reports that are read from files: pages and tables use their rows without further checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from qpass.errors import DataError
from qpass.report.data import ReportData, TensorRow

_TENSOR_KINDS = ("activation", "weight", "output")
#: Kinds whose bit widths a recipe says, and a budget may choose.
_CHOSEN_KINDS = ("activation", "weight")
_LAYER_KINDS = ("linear", "conv1d", "conv2d", "conv3d", "matmul")
#: Limits: rows of each kind, histogram bins, output values of a quantizer, learned blocks, bits.
_ROWS, _BINS, _LEVELS, _BLOCKS, _BITS = 20_000, 1_000, 256, 2_000, 64
_LISTS = (
    "tensors", "layers", "blocks", "stayed_float", "unrotated", "channel_strengths", "not_rewritten", "allocation", "sizes",
    "options",
)  # fmt: skip
#: Largest magnitude of a value.
_GREATEST = 3.5e38


def check_rows(report: ReportData) -> None:
    """Rejects a report with more rows, or other values, than ``quantization_report`` returns.

    Raises:
        DataError: Naming the row.
    """
    _require(isinstance(report.config.get("name"), str), "config.name", "is no text", "the recipe's name")
    for kind in _CHOSEN_KINDS:
        spec = report.config.get(kind)
        bits = spec.get("bits") if isinstance(spec, Mapping) else None
        _require(isinstance(bits, int) and 0 < bits <= _BITS, f"config.{kind}.bits", "is odd", f"1 to {_BITS}")
    for name in _LISTS:
        _require(len(getattr(report, name)) <= _ROWS, name, "has too many rows", f"at most {_ROWS}")
    _require(len(report.reconstruction) <= _BLOCKS, "reconstruction", "has too many rows", f"at most {_BLOCKS}")
    for index, tensor in enumerate(report.tensors):
        _check_tensor(tensor, f"tensors[{index}]")
    for index, layer in enumerate(report.layers):
        _require(layer.kind in _LAYER_KINDS, f"layers[{index}].kind", "is another", ", ".join(_LAYER_KINDS))
    for index, row in enumerate(report.allocation):
        where = f"allocation[{index}]"
        _require(row.kind in _CHOSEN_KINDS, f"{where}.kind", "is another", ", ".join(_CHOSEN_KINDS))
        _require(0 < row.bits <= _BITS and row.size > 0, where, "has an odd bit width or size", "numbers above 0")
        _require(0 < len(row.errors) <= _BITS, f"{where}.errors", "has no bit widths", f"1 to {_BITS}")
        _require(row.bits in row.errors, f"{where}.bits", "is none of those that were tried", "a bit width that has an error")


def _check_tensor(row: TensorRow, where: str) -> None:
    _require(row.kind in _TENSOR_KINDS, f"{where}.kind", "is another", ", ".join(_TENSOR_KINDS))
    _require(0 < row.bits <= _BITS, f"{where}.bits", f"is {row.bits}", f"1 to {_BITS}")
    _require(_finite((row.low, row.high)) and row.low <= row.high, where, "has an odd range", "finite numbers low <= high")
    _require(row.size >= 0, f"{where}.size", "is negative", "a count")
    _require(0 < len(row.levels) <= _LEVELS and _finite(row.levels), f"{where}.levels", "is odd", f"1 to {_LEVELS} numbers")
    fits = len(row.histogram) <= _BINS and all(count >= 0 for count in row.histogram)
    _require(fits, f"{where}.histogram", "is odd", f"at most {_BINS} counts")


def _finite(values: Iterable[float]) -> bool:
    return all(math.isfinite(value) and abs(value) <= _GREATEST for value in values)


def _require(holds: bool, where: str, what: str, expected: str) -> None:
    if not holds:
        raise DataError(what, where=f"report.{where}", expected=expected)
