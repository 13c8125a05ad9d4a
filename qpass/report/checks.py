"""Checks reports that are read from files: pages and tables use their rows without further checks."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping

from qpass.config.spec import TENSOR_ROLES
from qpass.errors import DataError
from qpass.report.data import InputPreview, ReportData, TensorRow
from qpass.report.preview import CHANNELS

_TENSOR_KINDS = ("activation", "weight", "output")
#: Kinds whose bit widths a recipe says, and a budget may choose.
_CHOSEN_KINDS = ("activation", "weight")
_LAYER_KINDS = ("linear", "conv1d", "conv2d", "conv3d", "matmul", "softmax")
#: Limits: rows of each kind, histogram bins, output values of a quantizer, learned blocks, bits.
_ROWS, _BINS, _LEVELS, _BLOCKS, _BITS = 20_000, 1_000, 256, 2_000, 64
#: Limits: readers of a tensor, pictures, pixels of their sides, settings of a speed, decibels.
_READERS, _PICTURES, _SIDE, _SETTINGS, _DECIBELS = 1_000, 16, 256, 100, 1_000
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
    _check_decibels(report.output_sqnr_db, "output_sqnr_db")
    for index, block in enumerate(report.blocks):
        _check_decibels(block.sqnr_db, f"blocks[{index}].sqnr_db")
    for index, tensor in enumerate(report.tensors):
        _check_tensor(tensor, f"tensors[{index}]")
    for index, layer in enumerate(report.layers):
        _check_decibels(layer.sqnr_db, f"layers[{index}].sqnr_db")
        _require(layer.kind in _LAYER_KINDS, f"layers[{index}].kind", "is another", ", ".join(_LAYER_KINDS))
    for index, row in enumerate(report.allocation):
        where = f"allocation[{index}]"
        _require(row.kind in _CHOSEN_KINDS, f"{where}.kind", "is another", ", ".join(_CHOSEN_KINDS))
        _require(0 < row.bits <= _BITS and row.size > 0, where, "has an odd bit width or size", "numbers above 0")
        _require(0 < len(row.errors) <= _BITS, f"{where}.errors", "has no bit widths", f"1 to {_BITS}")
        _require(row.bits in row.errors, f"{where}.bits", "is none of those that were tried", "a bit width that has an error")
    _check_outcome(report)
    if report.preview is not None:
        _check_preview(report.preview)


def _check_outcome(report: ReportData) -> None:
    found = report.agreement
    fits = found is None or (0 <= found.same <= found.samples and found.samples > 0 and found.classes > 0)
    _require(fits, "agreement", "has odd counts", "no more that agree than samples")
    _require(report.calibration_samples >= 0, "calibration_samples", "is negative", "a count")
    _require(report.verified is None or report.verified.samples >= 0, "verified.samples", "is negative", "a count")
    _require(len(report.speed) <= _SETTINGS, "speed", "has too many rows", f"at most {_SETTINGS}")
    for index, speed in enumerate(report.speed):
        fits = _finite([speed.speedup]) and speed.speedup > 0 and speed.batch > 0 and speed.threads > 0
        _require(fits, f"speed[{index}]", "is odd", "numbers above 0")


def _check_preview(preview: InputPreview) -> None:
    channels = preview.shape[0] if len(preview.shape) == 3 else 0
    _require(
        channels in CHANNELS and min(preview.shape) > 0, "preview.shape", "is no image's", "1 or 3 channels, height, width"
    )
    for name in ("lows", "highs", "means", "stds"):
        values = getattr(preview, name)
        _require(len(values) == channels and _finite(values), f"preview.{name}", "is odd", "a number for each channel")
    _require(len(preview.images) <= _PICTURES, "preview.images", "has too many rows", f"at most {_PICTURES}")
    for index, image in enumerate(preview.images):
        where, bytes_of_row = f"preview.images[{index}]", image.width * image.channels
        fits = image.channels == channels and 0 < image.width <= _SIDE and 0 < image.height <= _SIDE
        _require(fits and len(image.rows) == image.height, where, "has an odd size", f"at most {_SIDE} pixels")
        _require(all(_bytes_in(row) == bytes_of_row for row in image.rows), where, "has an odd row", "its pixels in base64")


def _bytes_in(row: str) -> int:
    """Returns the number of bytes that base64 text stands for, -1 if it is none."""
    try:
        return len(base64.b64decode(row, validate=True))
    except ValueError:
        return -1


def _check_decibels(value: float, where: str) -> None:
    _require(math.isnan(value) or abs(value) <= _DECIBELS, where, "is odd", f"at most {_DECIBELS} dB")


def _check_tensor(row: TensorRow, where: str) -> None:
    _require(row.kind in _TENSOR_KINDS, f"{where}.kind", "is another", ", ".join(_TENSOR_KINDS))
    _require(0 < row.bits <= _BITS, f"{where}.bits", f"is {row.bits}", f"1 to {_BITS}")
    _require(_finite((row.low, row.high)) and row.low <= row.high, where, "has an odd range", "finite numbers low <= high")
    _require(row.size >= 0, f"{where}.size", "is negative", "a count")
    _require(len(row.readers) <= _READERS, f"{where}.readers", "has too many rows", f"at most {_READERS}")
    roles = all(role in TENSOR_ROLES for _, role in row.readers)
    _require(roles, f"{where}.readers", "has another role", ", ".join(TENSOR_ROLES))
    _check_decibels(row.sqnr_db, f"{where}.sqnr_db")
    _require(0 < len(row.levels) <= _LEVELS and _finite(row.levels), f"{where}.levels", "is odd", f"1 to {_LEVELS} numbers")
    fits = len(row.histogram) <= _BINS and all(count >= 0 for count in row.histogram)
    _require(fits, f"{where}.histogram", "is odd", f"at most {_BINS} counts")


def _finite(values: Iterable[float]) -> bool:
    return all(math.isfinite(value) and abs(value) <= _GREATEST for value in values)


def _require(holds: bool, where: str, what: str, expected: str) -> None:
    if not holds:
        raise DataError(what, where=f"report.{where}", expected=expected)
