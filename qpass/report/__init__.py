"""The quantization report: figures for each tensor and layer, as a table, JSON or one HTML page."""

from qpass.report.data import BlockRow, LayerRow, TensorRow
from qpass.report.model import QuantReport
from qpass.runtime.public_names import only

__all__ = ["BlockRow", "LayerRow", "QuantReport", "TensorRow"]
__dir__ = only(__all__)
