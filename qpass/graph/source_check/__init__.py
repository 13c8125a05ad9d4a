"""Compares graphs, quantizers off, with the caller's model.

``verify_onnx`` compares files with graphs.
"""

from qpass.graph.source_check.result import SourceCheck
from qpass.graph.source_check.source import Source
from qpass.runtime.public_names import only

__all__ = ["Source", "SourceCheck"]
__dir__ = only(__all__)
