"""Compares graphs, quantizers off, with the caller's model.

``verify_onnx`` compares files with graphs.
"""

from qpass.graph.source_check.result import SourceCheck
from qpass.graph.source_check.source import Source

__all__ = ["Source", "SourceCheck"]
