"""What happened to each tensor and layer: collected with the graph, shown as a table, JSON or one HTML page."""

from qpass.report.data import BlockRow, LayerRow, TensorRow
from qpass.report.model import QuantReport

__all__ = ["BlockRow", "LayerRow", "QuantReport", "TensorRow"]
