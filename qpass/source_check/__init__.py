"""Is a graph, quantizers off, the network that the caller gave? The first end of the proof; ``verify_onnx`` is the other."""

from qpass.source_check.result import SourceCheck
from qpass.source_check.source import Source

__all__ = ["Source", "SourceCheck"]
