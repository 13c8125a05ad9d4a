"""What happened to each tensor and layer: collected with the graph, shown as a table, JSON or one HTML page."""

from qpass.report.model import BlockRow, LayerRow, QuantReport, TensorRow

__all__ = ["BlockRow", "LayerRow", "QuantReport", "TensorRow"]
